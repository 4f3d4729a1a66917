"""Tables over the settings of one world: how much a method gains as the world gets harder."""

from collections.abc import Sequence
from statistics import fmean

from graceful_forgetting.results.statistics import gap_recovered
from graceful_forgetting.sweeps.comparison import Group, evidence_rows
from graceful_forgetting.sweeps.differences import NONE, gain_over_plain, recovered_share


def gains_by_setting(groups: Sequence[Group], methods: Sequence[str], shares_of: str) -> str:
    """Every method's gain over plain fine-tuning in points in each setting, and the share of the gap that one recovers.

    Seeds are paired; intervals are Student's t of gains, bootstrap of shares, 95 %.

    Args:
        groups: one a setting, with the methods `plain`, `never_knew` and those named.
        methods: the columns.
        shares_of: the method whose share of the gap is shown.
    """
    heads = " | ".join(f"`{method}`" for method in methods)
    rows = [
        f"| setting | plain, accuracy | `never_knew` | {heads} | gap recovered by `{shares_of}` |",
        "|---" * (len(methods) + 4) + "|",
    ]
    for group in groups:
        plain = group.scores("plain")
        gains = [gain_over_plain([group], method) for method in ("never_knew", *methods)]
        accuracy = f"{100 * fmean(plain):.1f}"
        rows.append(f"| {group.setting} | {accuracy} | {' | '.join(gains)} | {_share(group, shares_of)} |")
    return "\n".join([*rows, "", f"{len(plain)} seeds a setting."])


def evidence_table(groups: Sequence[Group]) -> str:
    """Accuracy of every method by the number of learning examples, and the fewest that reach the target."""
    found = evidence_rows(groups)
    sizes = sorted({size for row in found for size in row.by_size})
    heads = " | ".join(f"{size} examples" for size in sizes)
    rows = [f"| method | {heads} | needed for {100 * found[0].target:.1f} |", "|---" * (len(sizes) + 2) + "|"]
    for row in found:
        reached = " | ".join(f"{100 * row.by_size[size]:.1f}" if size in row.by_size else NONE for size in sizes)
        rows.append(f"| `{row.method}` | {reached} | {NONE if row.required is None else row.required} |")
    return "\n".join(rows)


def _share(group: Group, method: str) -> str:
    plain, ours, never_knew = ([cell.score for cell in cells] for cells in group.paired("plain", method, "never_knew"))
    return recovered_share(gap_recovered(plain, ours, never_knew))
