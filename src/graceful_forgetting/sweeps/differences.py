"""Differences, shares and their intervals as text, for the tables over several sweeps."""

from collections.abc import Sequence

from graceful_forgetting.results.statistics import GapRecovered, PairedInterval, paired_interval
from graceful_forgetting.sweeps.comparison import Group

NONE = "–"


def signed(value: float, digits: int = 1) -> str:
    """With its sign, and a proper minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """In brackets, after a space; nothing where there is none."""
    return "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")


def recovered_share(found: GapRecovered) -> str:
    """The share of a gap in %; a dash where the gap may be none, of which a share says nothing."""
    if found.fraction is None or found.low is None or found.high is None:
        return NONE
    return f"{100 * found.fraction:.0f} %".replace("-", "−") + interval(100 * found.low, 100 * found.high)


def gain_over_plain(groups: Sequence[Group], method: str) -> str:
    """As `gain_over`, of a method over plain fine-tuning."""
    return gain_over(groups, method, "plain")


def gain_over(groups: Sequence[Group], method: str, other: str) -> str:
    """In points, with its interval; seeds are paired within a group and pooled over groups."""
    pairs = [pair for group in groups for pair in zip(*group.paired(method, other), strict=True)]
    return points(paired_interval([a.score for a, _ in pairs], [b.score for _, b in pairs]))


def points(found: PairedInterval) -> str:
    """A difference of shares in points, with its interval where it has one."""
    if found.low is None or found.high is None:
        return signed(100 * found.difference)
    return signed(100 * found.difference) + interval(100 * found.low, 100 * found.high)
