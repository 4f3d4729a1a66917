"""The picture of the README: accuracy on the demo's learning task, a bar an arm."""

from evidence.demo_arms import ARMS
from graceful_forgetting.report import svg
from graceful_forgetting.report.scales import Scale

_LEFT, _RIGHT, _ROW, _BAR = 168.0, 136.0, 30.0, 18.0
_FILLS = ("#8a93a1", "#6d4bc4", "#b9a5ec", "#2f8591")


def demo_chart() -> svg.Figure:
    """Mean over seeds as a bar, its 95 % t interval as a line."""
    bottom = svg.TOP + _ROW * len(ARMS)
    x = Scale("linear", 0.0, 100.0, _LEFT, svg.WIDTH - _RIGHT)
    parts = svg.x_axis(x, bottom, "accuracy on held-out questions, %", grid_top=svg.TOP)
    spoken = []
    for row, (arm, fill) in enumerate(zip(ARMS, _FILLS, strict=True)):
        middle = svg.TOP + (row + 0.5) * _ROW
        mean = arm.mean()
        assert mean.low is not None
        assert mean.high is not None
        value, low, high = (100 * bound for bound in (mean.difference, mean.low, mean.high))
        width = x(value) - x(0.0)
        parts.append(svg.element("rect", x=x(0.0), y=middle - _BAR / 2, width=width, height=_BAR, fill=fill))
        parts.append(svg.element("path", d=f"M{x(low):.1f} {middle:g}H{x(high):.1f}", stroke="#1b2330", stroke_width=2))
        parts.append(svg.text(_LEFT - 10, middle + 4, arm.label, "row-label", "end"))
        interval = f"{value:.1f} [{low:.1f}, {high:.1f}]"
        parts.append(svg.text(svg.WIDTH - 4, middle + 4, interval, "value", "end"))
        spoken.append(f"{arm.label} {interval}")
    title = f"The demo after fine-tuning: mean of {len(ARMS[0].values)} seeds, 95 % interval"
    return svg.Figure(title, svg.drawing(bottom + svg.BOTTOM, f"{title}. {'; '.join(spoken)}.", parts))
