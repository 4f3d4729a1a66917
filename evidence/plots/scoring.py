"""The charts of the scoring study: AUROC of the confidence by its step size."""

from evidence.scoring_study.rows import MULTIPLES, Setting
from evidence.scoring_study.summary import FISHERS, Study
from graceful_forgetting.report import svg
from graceful_forgetting.report.plots import task_class
from graceful_forgetting.report.scales import Scale, scale_for
from graceful_forgetting.report.sweep_plots import Point, banded_curves

_HEIGHT = 260.0
# As many as can be told apart.
_SHOWN = [pair for pair in FISHERS if pair not in (("sampled, 8 draws", "base"), ("exact", "base"))]
_POINT = {"reference": "θ*_L", "base": "θ_base"}


def step_size_charts(study: Study) -> list[svg.Figure]:
    """One chart a world, build 0: AUROC against α in units of the crossover, a line a Fisher information."""
    return [_chart(study, world) for world in study.worlds]


def _chart(study: Study, world: str) -> svg.Figure:
    series = {f"{fisher} at {_POINT[at]}": _band(study, world, fisher, at) for fisher, at in _SHOWN}
    series = {name.removeprefix("sampled, "): band for name, band in series.items() if band}
    x = scale_for(MULTIPLES, svg.LEFT, svg.WIDTH - svg.RIGHT, kinds=("log",))
    y = Scale("linear", 0.0, 1.0, _HEIGHT - svg.BOTTOM, svg.TOP)
    parts = [*svg.y_axis(y, svg.LEFT), *svg.x_axis(x, _HEIGHT - svg.BOTTOM, "α / α×")]
    parts += banded_curves(list(series.values()), x, y)
    ends = "; ".join(f"{name} {band[0][2]:.2f} to {band[-1][2]:.2f}" for name, band in series.items())
    return svg.Figure(
        title=f"{world}: AUROC by step size",
        drawing=svg.drawing(_HEIGHT, f"AUROC in the world {world} by step size, smallest to largest: {ends}.", parts),
        caption="Mean over reference runs; band: 95 % bootstrap interval.",
        legend=[(f"line {task_class(index)}", name) for index, name in enumerate(series)],
    )


def _band(study: Study, world: str, fisher: str, at: str) -> list[Point]:
    """(α / α×, low, mean, high); without a second run the band has no width."""
    band = []
    for multiple in MULTIPLES:
        found = study.interval(world, 0, Setting("lwf", fisher, at, f"{multiple:g}x"))
        if found is not None:
            low, high = (found.value if bound is None else bound for bound in (found.low, found.high))
            band.append((multiple, low, found.value, high))
    return band
