"""Numbers as readers see them, and JSON that is safe inside an HTML script element."""

import json
import math
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

_MINUS = "\u2212"
# "<" and ">" end or open a script or comment, "&" opens an entity in XHTML, U+2028/9 end a line in old
# JavaScript.
_UNSAFE_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits, a real minus sign, "–" for None and for a number that is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}".replace("-", _MINUS).replace(",", "\u202f")
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", _MINUS)


def fixed(value: float | None, decimals: int = 3) -> str:
    """Fixed decimals, "–" for None."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value + 0.0:.{decimals}f}".replace("-", _MINUS)


def signed(value: float | None, decimals: int = 3) -> str:
    """Fixed decimals with a sign, "–" for None."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value + 0.0:+.{decimals}f}".replace("-", _MINUS)


def percent(value: float | None) -> str:
    """A fraction as a whole percentage, with a decimal below 1 %; "–" for None."""
    if value is None or not math.isfinite(value):
        return "–"
    decimals = 1 if 0 < abs(value) < 0.01 else 0
    return f"{100 * value:.{decimals}f}\u00a0%".replace("-", _MINUS)


def timestamp(iso: str) -> str:
    """An ISO 8601 time to the minute in UTC: "2025-01-31 09:30 UTC"; a text that is none as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def size(number_of_bytes: int | None) -> str:
    """Bytes in binary units, "–" for None."""
    if number_of_bytes is None:
        return "–"
    value = float(number_of_bytes)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def setting(value: Any) -> str:
    """A setting as YAML-like text: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def script_json(content: Any) -> Markup:
    """JSON that a script element may hold whatever text is in it. Raises `ValueError` on NaN or infinity."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE_IN_SCRIPT))  # every character with a meaning in HTML is escaped
