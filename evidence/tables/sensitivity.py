"""What each setting is worth around its default: methods named `FIELD-xFACTOR` vary one field by a factor."""

import re
from collections.abc import Sequence

from graceful_forgetting.sweeps.comparison import Group
from graceful_forgetting.sweeps.differences import gain_over_plain

_VARIED = re.compile(r"^(?P<field>\w+)-x(?P<factor>[\d.]+)$")


def sensitivity(groups: Sequence[Group], default: str) -> str:
    """Gain over plain fine-tuning in points with each field at each factor, and with the defaults.

    Seeds are paired within a group and pooled over groups; intervals are Student's t, 95 %.

    Args:
        groups: of one world, with the methods `plain`, `default` and those that vary a field.
        default: the method that all others vary.
    """
    varied = {
        (found["field"], float(found["factor"])): name
        for name in groups[0].methods
        if (found := _VARIED.match(name)) is not None
    }
    factors = sorted({factor for _, factor in varied} | {1.0})
    rows = [
        f"| setting | {' | '.join('default' if factor == 1 else f'× {factor:g}' for factor in factors)} |",
        "|---" * (len(factors) + 1) + "|",
    ]
    for field in dict.fromkeys(field for field, _ in varied):
        methods = [default if factor == 1 else varied.get((field, factor)) for factor in factors]
        cells = ["" if method is None else gain_over_plain(groups, method) for method in methods]
        rows.append(f"| `{field}` | {' | '.join(cells)} |")
    return "\n".join(rows)
