"""The charts of a sweep's report: heat map of gains, learning curves with bands."""

from collections.abc import Sequence

from graceful_forgetting.report import svg
from graceful_forgetting.report.plots import task_class
from graceful_forgetting.report.scales import Scale, scale_for
from graceful_forgetting.results.statistics import PairedInterval, mean_interval
from graceful_forgetting.results.text import measured
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.comparison import Group

# Gain, as a share of the metric's unit, at which a field of the heat map has its full colour.
_FULL_COLOUR = 0.1
# More methods than this in one chart cannot be told apart.
CURVE_METHODS = 6
Point = tuple[float, float, float, float]
"""Where on the horizontal axis, and there: low, mean, high."""


def heat_maps(groups: Sequence[Group]) -> list[svg.Figure]:
    """Gain over plain by learning and forgetting: one chart a setting and method that forgets, the largest first."""
    fields: dict[tuple[str, str], dict[tuple[str, str], tuple[Group, PairedInterval]]] = {}
    for group in groups:
        for result in group.results:
            if result.gain is not None and group.forgets(result.method):
                where = (group.setting, result.method)
                fields.setdefault(where, {})[(group.learning, group.forgetting)] = group, result.gain
    several = {where: found for where, found in fields.items() if len(found) > 1}
    return [_heat_map(*where, found) for where, found in several.items()]


def _heat_map(setting: str, method: str, fields: dict[tuple[str, str], tuple[Group, PairedInterval]]) -> svg.Figure:
    learning = list(dict.fromkeys(row for row, _ in fields))
    forgetting = list(dict.fromkeys(column for _, column in fields))
    left, top, height = 120.0, 34.0, 46.0
    width = (svg.WIDTH - left - 4) / len(forgetting)
    parts = []
    for column, name in enumerate(forgetting):
        label = svg.shortened(name, max(4, int(width / 7)))
        parts.append(svg.text(left + (column + 0.5) * width, top - 10, label, "tick", "middle"))
    spoken = []
    for row, name in enumerate(learning):
        y = top + row * height
        parts.append(svg.text(left - 8, y + height / 2 + 4, svg.shortened(name, 17), "row-label", "end"))
        for column, other in enumerate(forgetting):
            x = left + column * width
            if (name, other) not in fields:
                parts.append(_field(x, y, width, height, "none", 1.0))
                continue
            group, gain = fields[(name, other)]
            colour = "better" if gain.difference > 0 else "worse"
            parts.append(_field(x, y, width, height, "none", 1.0))
            parts.append(_field(x, y, width, height, colour, min(1.0, abs(gain.difference) / _FULL_COLOUR)))
            text = measured(gain.difference, group.metric, sign=True)
            sure = gain.low is not None and gain.high is not None and (gain.low > 0 or gain.high < 0)
            middle = x + width / 2
            parts.append(svg.text(middle, y + height / 2 + 4, f"{text}{'*' if sure else ''}", "value", "middle"))
            spoken.append(f"{name}, forgetting {other}: {text}")
    label = f"Gain of {method} over plain. {'; '.join(spoken)}."
    title = f"{method}: learning (rows) × forgetting (columns)" + ("" if setting == "default" else f", {setting}")
    drawing = svg.drawing(top + height * len(learning) + 8, label, parts)
    return svg.Figure(title, drawing, "Mean over seeds, paired; * marks a 95 % interval that leaves out 0.")


def _field(x: float, y: float, width: float, height: float, colour: str, opacity: float) -> svg.Markup:
    shape = {"x": x, "y": y, "width": width, "height": height, "fill_opacity": opacity}
    return svg.element("rect", class_=f"heat heat-{colour}", **shape)


def learning_curves(group: Group) -> list[svg.Figure]:
    """Accuracy by learning update: mean over seeds and its 95 % band, at most `CURVE_METHODS` methods a chart."""
    names = [method for method in group.methods if _has_curve(list(group.methods[method].values()))]
    controls = [name for name in names if name in (group.control("plain"), group.control("never_knew"))]
    others = [name for name in names if name not in controls]
    room = CURVE_METHODS - len(controls)
    charts = [controls + others[i : i + room] for i in range(0, len(others), room)] or [controls]
    return [_curves(group, chart) for chart in charts if chart]


def _has_curve(cells: Sequence[CellResult]) -> bool:
    return all(len(cell.curve) > 1 and all(point.accuracy is not None for point in cell.curve) for cell in cells)


def _curves(group: Group, methods: Sequence[str]) -> svg.Figure:
    series = {method: _band(list(group.methods[method].values())) for method in methods}
    levels = [level for found in series.values() for _, low, mean, high in found for level in (low, mean, high)]
    steps = sorted({step for found in series.values() for step, *_ in found})
    height = 260.0
    x = scale_for(steps, svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = scale_for(levels, height - svg.BOTTOM, svg.TOP)
    parts = [*svg.y_axis(y, svg.LEFT), *svg.x_axis(x, height - svg.BOTTOM, "learning update")]
    parts += banded_curves(list(series.values()), x, y)
    ends = "; ".join(f"{method} ends at {measured(found[-1][2], 'accuracy')} %" for method, found in series.items())
    means = {method: {step: mean for step, _, mean, _ in found} for method, found in series.items()}
    readout = {
        "label": "update",
        "x": steps,
        "position": [round(x(step), 1) for step in steps],
        "series": [
            {
                "name": method,
                "class": task_class(index),
                "y": [None if step not in means[method] else round(means[method][step], 4) for step in steps],
            }
            for index, method in enumerate(series)
        ],
    }
    return svg.Figure(
        title=f"{group.name}: accuracy",
        drawing=svg.drawing(height, f"Accuracy on {group.learning} by learning update. {ends}.", parts),
        caption="Mean over seeds; band: 95 % interval of the mean.",
        legend=[(f"line {task_class(index)}", method) for index, method in enumerate(series)],
        readout=readout,
    )


def banded_curves(series: Sequence[Sequence[Point]], x: Scale, y: Scale) -> list[svg.Markup]:
    """The mean of each series as a line, above the bands from low to high of all of them."""
    bands, lines = [], []
    for index, points in enumerate(series):
        corners = [(x(place), y(high)) for place, _, _, high in points]
        corners += [(x(place), y(low)) for place, low, _, _ in reversed(points)]
        bands.append(svg.polygon(corners, f"band {task_class(index)}"))
        lines.append(svg.polyline([(x(place), y(mean)) for place, _, mean, _ in points], f"curve {task_class(index)}"))
    return [*bands, *lines]


def _band(cells: Sequence[CellResult]) -> list[Point]:
    """At the steps that all cells have; without a second seed the band has no width."""
    curves = [{point.step: point.accuracy for point in cell.curve} for cell in cells]
    shared = sorted(set.intersection(*(set(curve) for curve in curves)))
    found: list[Point] = []
    for step in shared:
        values = [value for curve in curves if (value := curve[step]) is not None]
        mean = mean_interval(values)
        low, high = (mean.value if bound is None else bound for bound in (mean.low, mean.high))
        found.append((step, low, mean.value, high))
    return found
