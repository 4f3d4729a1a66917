"""The charts of the report: each function returns a `Figure`, or None where there is nothing to show."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import numpy as np
from markupsafe import Markup

from graceful_forgetting.report import svg
from graceful_forgetting.report.samples import ScoredSamples
from graceful_forgetting.report.scales import Scale, scale_for
from graceful_forgetting.results.result import Arm, LogEntry, TaskSummary, TrainingRunResult
from graceful_forgetting.results.statistics import PairedInterval
from graceful_forgetting.results.text import fixed, number, signed

METRIC_NAMES: dict[str, str] = {
    "f1": "F1",
    "chrf": "chrF",
    "accuracy": "accuracy",
    "choice_accuracy": "chance-adjusted accuracy by likelihood",
    "bits_per_byte": "bits per byte (lower is better)",
    "nll_per_token": "negative log-likelihood per token (lower is better)",
}
# Least and greatest value of a metric; of others nothing lies below 0.
LIMITS = {"f1": (0, 1), "chrf": (0, 100), "accuracy": (0, 1), "choice_accuracy": (-math.inf, 1)}
# Tasks beyond this many share one colour and, in the histogram, are left out: no palette stays readable.
TASK_COLOURS = 6
HISTOGRAM_TASKS = 12
_BINS = 40
Series = dict[int, float]


def task_class(index: int) -> str:
    """CSS class of the colour of the task at this position."""
    return f"task-{index}" if index < TASK_COLOURS else "task-other"


def curves(
    title: str,
    runs: Sequence[TrainingRunResult],
    value: Callable[[LogEntry], float | None],
    names: Mapping[str, str],
    *,
    wide_range: bool = False,
    caption: str = "",
) -> svg.Figure | None:
    """One quantity by learning step: a thin line per seed and a thick mean line per arm.

    `value` reads the quantity from a log entry; `names` is by arm. `wide_range` allows a logarithmic axis.
    """
    by_arm: dict[str, list[Series]] = {}
    for arm in get_args(Arm):
        found = [_series(run, value) for run in runs if run.arm == arm]
        found = [series for series in found if series]
        if found:
            by_arm[arm] = found
    if not by_arm:
        return None
    points = [point for found in by_arm.values() for series in found for point in series.items()]
    height = 250.0
    x = scale_for([step for step, _ in points], svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = scale_for(
        [level for _, level in points],
        height - svg.BOTTOM,
        svg.TOP,
        kinds=("log", "symlog") if wide_range else ("linear",),
    )
    parts = [*svg.y_axis(y, svg.LEFT), *svg.x_axis(x, height - svg.BOTTOM, "learning step")]
    means = {arm: _mean_series(found) for arm, found in by_arm.items()}
    for arm, found in by_arm.items():
        if len(found) > 1:
            parts += [_curve(series, x, y, f"curve seed arm-{arm}") for series in found]
    parts += [_curve(means[arm], x, y, f"curve arm-{arm}") for arm in means]
    ends = "; ".join(
        f"{names[arm]} from {number(next(iter(mean.values())))} to {number(list(mean.values())[-1])}"
        for arm, mean in means.items()
        if mean
    )
    steps = sorted({step for mean in means.values() for step in mean})
    readout = {
        "label": "step",
        "x": steps,
        "position": [round(x(step), 1) for step in steps],
        "series": [
            {"name": names[arm], "class": f"arm-{arm}", "y": [_rounded(mean.get(step)) for step in steps]}
            for arm, mean in means.items()
        ],
    }
    notes = [caption] if caption else []
    notes += ["Thick: mean over seeds; thin: single seeds."] if any(len(f) > 1 for f in by_arm.values()) else []
    notes += ["Logarithmic scale."] if y.kind != "linear" else []
    return svg.Figure(
        title=title,
        drawing=svg.drawing(height, f"{title} by learning step. {ends}.", parts),
        caption=" ".join(notes),
        legend=[(f"line arm-{arm}", names[arm]) for arm in by_arm],
        readout=readout,
    )


def _series(run: TrainingRunResult, value: Callable[[LogEntry], float | None]) -> Series:
    found: Series = {}
    for entry in run.training_log:
        level = value(entry)
        if level is not None and math.isfinite(level):
            found[entry.step] = level
    return found


def _mean_series(found: list[Series]) -> Series:
    """Mean over seeds at the steps that all of them logged."""
    shared = set.intersection(*(set(series) for series in found))
    return {step: float(np.mean([series[step] for series in found])) for step in sorted(shared)}


def _curve(series: Series, x: Scale, y: Scale, class_: str) -> Markup:
    return svg.polyline(((x(step), y(level)) for step, level in sorted(series.items())), class_)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def arm_dots(title: str, tasks: Mapping[str, TaskSummary], names: Mapping[str, str]) -> svg.Figure | None:
    """One row an arm of `names`, grouped by task: a dot per seed, a bar at the mean.

    All tasks must share one metric.
    """
    shown = {
        task: [(arm, summary.arms[arm]) for arm in names if arm in summary.arms] for task, summary in tasks.items()
    }
    values = [value for rows in shown.values() for _, arm in rows for value in arm.values]
    if not values:
        return None
    longest = max(len(names[arm]) for rows in shown.values() for arm, _ in rows)
    left, right, row_height, heading_height = max(150.0, 12 + 6.6 * longest), 52.0, 26.0, 24.0
    headings = len(tasks) > 1
    body = sum(map(len, shown.values())) * row_height + (len(tasks) * heading_height if headings else 0) + 6
    height = svg.TOP + body + svg.BOTTOM
    key = next(iter(tasks.values())).metric
    x = scale_for(values, left, svg.WIDTH - right, limits=LIMITS.get(key, (0, math.inf)))
    metric = METRIC_NAMES[key]
    parts = svg.x_axis(x, svg.TOP + body, metric, grid_top=svg.TOP)
    spoken = []
    y = svg.TOP
    for task, rows in shown.items():
        if headings:
            parts.append(svg.text(4, y + 17, svg.shortened(task, 40), "group"))
            y += heading_height
        for arm, seeds in rows:
            middle = y + row_height / 2
            bar = x(seeds.mean)
            parts.append(svg.text(left - 10, middle + 4, names[arm], "row-label", "end"))
            parts.append(svg.dots(((x(value), middle) for value in seeds.values), f"dots seed-dot arm-{arm}"))
            parts.append(svg.line(bar, middle - 9, bar, middle + 9, f"mean-bar arm-{arm}"))
            parts.append(svg.text(svg.WIDTH - 4, middle + 4, fixed(seeds.mean), "value", "end"))
            spoken.append(f"{task}, {names[arm]}: mean {fixed(seeds.mean)} over {seeds.n}")
            y += row_height
    label = f"{title}. {'; '.join(spoken)}."
    return svg.Figure(title, svg.drawing(height, label, parts), "Dots: seeds. Bar: their mean.")


def paired_differences(title: str, differences: Mapping[str, PairedInterval | None]) -> svg.Figure | None:
    """One row an entry: the mean paired difference as a dot, its t interval as a line, against a line at 0."""
    found = {name: difference for name, difference in differences.items() if difference is not None}
    if not found:
        return None
    left, right, row_height = 150.0, 58.0, 26.0
    height = svg.TOP + len(found) * row_height + 6 + svg.BOTTOM
    ends = [
        bound
        for paired in found.values()
        for bound in (paired.difference, paired.low, paired.high)
        if bound is not None
    ]
    x = scale_for([0.0, *ends], left, svg.WIDTH - right)
    bottom = height - svg.BOTTOM
    parts = svg.x_axis(x, bottom, "paired difference", grid_top=svg.TOP)
    parts.append(svg.line(x(0.0), svg.TOP, x(0.0), bottom, "cut"))
    spoken = []
    for row, (name, paired) in enumerate(found.items()):
        y = svg.TOP + (row + 0.5) * row_height
        parts.append(svg.text(left - 10, y + 4, svg.shortened(name, 24), "row-label", "end"))
        if paired.low is not None and paired.high is not None:
            parts.append(svg.line(x(paired.low), y, x(paired.high), y, "mean-bar arm-lwf"))
        parts.append(svg.dots([(x(paired.difference), y)], "dots mean-dot arm-lwf"))
        parts.append(svg.text(svg.WIDTH - 4, y + 4, signed(paired.difference), "value", "end"))
        reach = "one seed" if paired.low is None else f"{signed(paired.low)} to {signed(paired.high)}"
        spoken.append(f"{name}: {signed(paired.difference)}, {reach}")
    caption = "Dot: mean over seeds. Line: 95 % interval, paired by seed; without a second seed there is none."
    return svg.Figure(title, svg.drawing(height, f"{title}. {'; '.join(spoken)}.", parts), caption)


def score_histogram(samples: ScoredSamples, cut: float | None, score: str) -> svg.Figure | None:
    """The scores, called `score`, one row a task on a shared axis; chosen samples solid; the cut as a line."""
    finite = np.isfinite(samples.confidence)
    if not finite.any():
        return None
    counts = np.bincount(samples.task_index, minlength=len(samples.tasks))
    shown = [int(task) for task in np.argsort(-counts, kind="stable")[:HISTOGRAM_TASKS]]
    x = scale_for(samples.confidence[finite], svg.LEFT, svg.WIDTH - svg.RIGHT, kinds=("log", "symlog"))
    row_height, top = 84.0, 26.0
    bottom = top + row_height * len(shown)
    parts = svg.x_axis(x, bottom, score, grid_top=top)
    names, spoken = [], []
    for row, task in enumerate(shown):
        mine = finite & (samples.task_index == task)
        chosen, others = samples.confidence[mine & samples.chosen], samples.confidence[mine & ~samples.chosen]
        parts += _histogram_row(x, top + row_height * (row + 1), chosen, others, task_class(task))
        taken = f"{len(chosen)} of {len(chosen) + len(others)} chosen"
        name = f"{svg.shortened(samples.tasks[task], 46)}: {taken}"
        names.append(svg.text(svg.LEFT + 4, top + row_height * row + 20, name, "group"))
        spoken.append(f"{samples.tasks[task]}: {taken}")
    if cut is not None and math.isfinite(cut) and x.low <= cut <= x.high:
        position, anchor, aside = x(cut), "start", 5
        if position > 0.75 * svg.WIDTH:  # the label would leave the drawing on the right
            anchor, aside = "end", -5
        parts.append(svg.line(position, 16, position, bottom, "cut"))
        parts.append(svg.text(position + aside, 13, f"cut {number(cut, 3)}", "cut-label", anchor))
    left_out = len(samples.tasks) - len(shown)
    notes = ["Solid: chosen for unlearning; faint: not chosen. Each row has its own count scale."]
    notes += ["Logarithmic axis."] if x.kind != "linear" else []
    notes += [f"The {left_out} smallest tasks are left out here; the table has them."] if left_out else []
    if not finite.all():
        notes.append(f"{int((~finite).sum())} samples without a finite score are left out.")
    label = f"Histogram of scores: {score}. {'; '.join(spoken)}."
    drawing = svg.drawing(bottom + svg.BOTTOM, label, [*parts, *names])  # names above the cut
    return svg.Figure(f"{score} by task", drawing, " ".join(notes))


def _histogram_row(x: Scale, base: float, chosen: np.ndarray, others: np.ndarray, colour_class: str) -> list[Markup]:
    """Stacked bars standing on the line at height `base`, the chosen samples at the bottom."""
    tallest = 54.0
    edges = x.edges(_BINS)
    solid, faint = np.histogram(chosen, edges)[0], np.histogram(others, edges)[0]
    peak = max(1, int((solid + faint).max()))
    parts = [
        svg.line(svg.LEFT, base, svg.WIDTH - svg.RIGHT, base, "axis"),
        svg.text(svg.LEFT - 6, base - tallest + 8, str(peak), "tick", "end"),
        svg.text(svg.LEFT - 6, base, "0", "tick", "end"),
    ]
    for index in range(_BINS):
        left, right = x(edges[index]), x(edges[index + 1])
        foot = base
        for count, weight in ((solid[index], "chosen"), (faint[index], "unchosen")):
            if count:
                tall = tallest * count / peak
                foot -= tall
                shape = {"x": left, "y": foot, "width": max(0.5, right - left - 1), "height": tall}
                parts.append(svg.element("rect", class_=f"bar {weight} {colour_class}", **shape))
    return parts


def confidence_terms(samples: ScoredSamples) -> svg.Figure | None:
    """Linear against quadratic term, one dot a sample, coloured by task, solid where chosen."""
    finite = np.isfinite(samples.linear) & np.isfinite(samples.quadratic)
    if not finite.any():
        return None
    height = 330.0
    x = scale_for(samples.linear[finite], svg.LEFT, svg.WIDTH - svg.RIGHT, kinds=("symlog",))
    y = scale_for(samples.quadratic[finite], height - svg.BOTTOM, svg.TOP, kinds=("log", "symlog"))
    parts = [*svg.y_axis(y, svg.LEFT), *svg.x_axis(x, height - svg.BOTTOM, "linear term", grid_top=svg.TOP)]
    for weight, wanted in (("unchosen", ~samples.chosen), ("chosen", samples.chosen)):
        for task in range(len(samples.tasks)):
            mine = finite & wanted & (samples.task_index == task)
            if mine.any():
                places = zip(samples.linear[mine].tolist(), samples.quadratic[mine].tolist(), strict=True)
                parts.append(svg.dots(((x(a), y(b)) for a, b in places), f"dots {weight} {task_class(task)}"))
    legend = [(f"dot {task_class(index)}", name) for index, name in enumerate(samples.tasks[:TASK_COLOURS])]
    if len(samples.tasks) > TASK_COLOURS:
        legend.append(("dot task-other", "other tasks"))
    caption = "Vertical: quadratic term. Strong dots: chosen; faint: not chosen."
    bent = [name for name, scale in (("linear", x), ("quadratic", y)) if scale.kind != "linear"]
    if bent:
        caption += f" Logarithmic scale: {' and '.join(bent)} term."
    label = f"Quadratic against linear term of forgetting confidence for {int(finite.sum())} samples."
    return svg.Figure("Terms of the confidence", svg.drawing(height, label, parts), caption, legend)
