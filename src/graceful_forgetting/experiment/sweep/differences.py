"""Differences and their intervals as text, for the tables over several sweeps."""


def signed(value: float, digits: int = 1) -> str:
    """With its sign, and a proper minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """In brackets, after a space; nothing where there is none."""
    return "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]".replace("-", "−")
