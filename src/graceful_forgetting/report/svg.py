"""Building blocks of the charts: escaped SVG elements, axes, the drawing area."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from graceful_forgetting.report.scales import Scale

WIDTH = 460.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 12.0, 12.0, 40.0


@dataclass(frozen=True)
class Figure:
    """A chart: heading, drawing, a line under it, legend entries (CSS class, label).

    `readout`: values by x position that the script shows for the place pointed at.
    """

    title: str
    drawing: Markup
    caption: str = ""
    legend: list[tuple[str, str]] = field(default_factory=list)
    readout: dict[str, Any] | None = None


def element(name: str, *children: Markup | str, **attributes: str | float) -> Markup:
    """An SVG element, text and attribute values escaped; `class_`, `stroke_width` stand for the SVG names."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _short(value)) for key, value in attributes.items()
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inner)


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def drawing(height: float, label: str, parts: Iterable[Markup]) -> Markup:
    """The root: it scales with its container; `label` is what a screen reader says."""
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        role="img",
        aria_label=label,
        preserveAspectRatio="xMinYMin",
    )


def polyline(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """A line through pixel positions."""
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def polygon(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """A filled area with these corners."""
    return element("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def dots(points: Iterable[tuple[float, float]], class_: str) -> Markup:
    """Many equal dots as one path of zero-length strokes with round ends: far smaller than circles."""
    return element("path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in points), class_=class_)


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    """A text at a position; `anchor` is start, middle or end."""
    return element("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def shortened(content: str, limit: int) -> str:
    """At most `limit` characters, with an ellipsis where some are left out."""
    return content if len(content) <= limit else content[: limit - 1] + "…"


def x_axis(scale: Scale, y: float, label: str, grid_top: float | None = None) -> list[Markup]:
    """Ticks and label below `y`; with `grid_top`, grid lines from there down to `y`."""
    parts = [line(scale.start, y, scale.end, y, "axis")]
    for position, name in scale.ticks():
        if grid_top is not None:
            parts.append(line(position, grid_top, position, y, "grid"))
        parts.append(text(position, y + 16, name, "tick", "middle"))
    parts.append(text((scale.start + scale.end) / 2, y + 34, label, "axis-label", "middle"))
    return parts


def y_axis(scale: Scale, x: float) -> list[Markup]:
    """Ticks left of `x` and grid lines to the right edge; the chart's heading names the quantity."""
    parts = []
    for position, name in scale.ticks():
        parts.append(line(x, position, WIDTH - RIGHT, position, "grid"))
        parts.append(text(x - 6, position + 4, name, "tick", "end"))
    return parts
