"""Numbers as readers see them: with a real minus sign, and a dash for what is missing or not finite."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

MISSING = "–"
Show = Callable[..., str]
"""Text of a number; with `sign=True`, of a difference."""


def _text(value: float | None, form: str, unit: str = "") -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value + 0.0:{form}}{unit}".replace("-", "−")  # + 0.0: there is no minus zero


def number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits; whole numbers below a million in full."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", "−").replace(",", "\u202f")
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}{e}{int(exponent) if e else ''}".replace("-", "−")


def fixed(value: float | None, decimals: int = 3, sign: bool = False) -> str:
    """Fixed decimals."""
    return _text(value, f"{'+' if sign else ''}.{decimals}f")


def signed(value: float | None, decimals: int = 3) -> str:
    """Fixed decimals with a sign."""
    return fixed(value, decimals, sign=True)


def points(value: float | None, decimals: int = 1, sign: bool = False) -> str:
    """A share in percentage points, without a unit."""
    return fixed(None if value is None else 100 * value, decimals, sign)


def measured(value: float | None, metric: str, sign: bool = False) -> str:
    """A value of a metric: accuracies in percentage points, everything else with three decimals."""
    return points(value, sign=sign) if metric == "accuracy" else fixed(value, sign=sign)


def share(value: float | None, decimals: int = 0) -> str:
    """A share in percent, for plain text and Markdown."""
    return _text(None if value is None else 100 * value, f".{decimals}f", " %")


def percent(value: float | None) -> str:
    """A share in whole percent, with a decimal below 1 %, for HTML: no line breaks before the sign."""
    decimals = 1 if value is not None and 0 < abs(value) < 0.01 else 0
    return share(value, decimals).replace(" ", "\u00a0")


def spread(mean: float, sd: float | None, show: Show = points) -> str:
    """Mean ± standard deviation, without the latter where there is none."""
    return show(mean) if sd is None else f"{show(mean)} ± {show(sd)}"


def estimate(value: float, low: float | None, high: float | None, show: Show = points) -> str:
    """A difference and its interval, as "+8.0 [−1.4, 17.4]"; the difference alone where there is none."""
    return show(value, sign=True) + ("" if low is None or high is None else f" {interval(low, high, show)}")


def interval(low: float, high: float, show: Show = points) -> str:
    """Two bounds in brackets."""
    return f"[{show(low)}, {show(high)}]"


def duration(seconds: float) -> str:
    """Seconds in the largest units that fit: "0.42 s", "12 s", "3 min 05 s", "2 h 07 min"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def timestamp(iso: str) -> str:
    """An ISO 8601 time to the minute in UTC: "2025-01-31 09:30 UTC"; a text that is none as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def size(number_of_bytes: int | None) -> str:
    """Bytes in binary units."""
    if number_of_bytes is None:
        return MISSING
    value = float(number_of_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def setting(value: Any) -> str:
    """A setting as YAML-like text: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
