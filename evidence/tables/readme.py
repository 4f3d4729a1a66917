"""The table of the README: what forgetting gains in each world, a row a world."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from graceful_forgetting.sweeps.comparison import Group
from graceful_forgetting.sweeps.differences import gain_over_plain

# World -> what its base model knows that may be in the way of the learning task.
IN_THE_WAY = {
    "shortcut": "an old rule for the same question",
    "override": "old facts that are replaced",
    "arithmetic": "an old meaning of an operator",
    "capacity": "junk that takes up room",
    "entangled": "old facts beside helpful ones",
    "harmless": "nothing",
}
# Heading -> method in the archives. The last is the bound: pre-trained without what is in the way.
COLUMNS = {"LWF": "lwf", "package defaults": "early_retain_guarded", "never knew": "never_knew"}


def gains_in_worlds(worlds: Mapping[str, Sequence[Group]]) -> str:
    """Plain fine-tuning in accuracy, the others as gains over it in points with 95 % intervals over seeds."""
    rows = [f"| world | what is in the way | plain, % | {' | '.join(COLUMNS)} |", "|---" * (3 + len(COLUMNS)) + "|"]
    for world, groups in worlds.items():
        plain = fmean(cell.score for group in groups for cell in group.methods["plain"].values())
        gains = " | ".join(gain_over_plain(groups, method) for method in COLUMNS.values())
        rows.append(f"| `{world}` | {IN_THE_WAY[world]} | {100 * plain:.1f} | {gains} |")
    return "\n".join(rows)
