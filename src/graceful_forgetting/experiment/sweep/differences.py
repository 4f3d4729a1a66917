"""Differences, shares and their intervals as text, for the tables over several sweeps."""

from graceful_forgetting.experiment.statistics import GapRecovered

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
