"""Tables of the study: means over reference runs, paired intervals, AUROC by step size.

Intervals are percentile bootstraps over the reference runs of one build; runs of different settings are paired by seed.
Other builds are shown beside, not pooled: with two or three of them nothing can be said of the spread over builds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import mean, median

from evidence.scoring_study.rows import MULTIPLES, Setting, StudyRow
from evidence.tables.table import table
from graceful_forgetting.results.statistics import Interval, bootstrap_interval
from graceful_forgetting.results.text import MISSING, fixed
from graceful_forgetting.worlds import WORLDS

# The confidence as published, with the default settings of the package.
DEFAULT = Setting("lwf", "sampled", "reference", "1")
SCORERS = {
    "forgetting confidence, α = 1": DEFAULT,
    "α = 0.01 α×": Setting("lwf", "sampled", "reference", "0.01x"),
    "α = α×": Setting("lwf", "sampled", "reference", "1x"),
    "α = 10 α×": Setting("lwf", "sampled", "reference", "10x"),
    "α of Polyak": Setting("lwf", "sampled", "reference", "polyak"),
    "α by line search": Setting("lwf", "sampled", "reference", "line_search"),
    "α = α×, F empirical at θ_base": Setting("lwf", "empirical", "base", "1x"),
    "`linear`": Setting("linear", "sampled", "reference"),
    "`overlap`": Setting("overlap", "sampled", "reference"),
    "`interference`": Setting("interference"),
    "`gradient_conflict`": Setting("gradient_conflict"),
    "`gradient_cosine`": Setting("gradient_cosine"),
    "`pairwise_conflict`": Setting("pairwise_conflict"),
    "`loss`": Setting("loss"),
    "`random`": Setting("random"),
}
FISHERS = tuple(
    (fisher, at) for at in ("reference", "base") for fisher in ("sampled", "sampled, 8 draws", "empirical", "exact")
)
# In place of a world: the mean over all of them, seed by seed.
MEAN = "mean"
_STEPS = {**{f"{m:g} α×": f"{m:g}x" for m in MULTIPLES}, "1": "1", "Polyak": "polyak", "line search": "line_search"}
_POINT = {"reference": "θ\\*_L", "base": "θ_base"}
Measure = Callable[[StudyRow], float | None]


def found(row: StudyRow) -> float | None:
    """AUROC of conflicting samples against all others; in a world without any, of the rest against helpful ones."""
    return row.detection.above_helpful if row.detection.auroc is None else row.detection.auroc


class Study:
    """The rows by world, build and setting."""

    def __init__(self, rows: Sequence[StudyRow]) -> None:
        self._rows = {(row.world, row.build, row.setting, row.seed): row for row in rows}
        measured = {row.world for row in rows}
        self.worlds = [world for world in WORLDS if world in measured]
        self.builds = sorted({row.build for row in rows})

    def values(self, world: str, build: int, setting: Setting, measure: Measure = found) -> dict[int, float]:
        """Measured value by seed; without the seeds that lack one, in any of the worlds where `world` is `MEAN`."""
        if world == MEAN:
            each = [self.values(one, build, setting, measure) for one in self.worlds]
            seeds = sorted(set[int].intersection(*map(set, each)))
            return {seed: mean(values[seed] for values in each) for seed in seeds}
        chosen = {key[3]: row for key, row in self._rows.items() if key[:3] == (world, build, setting)}
        return {seed: value for seed, row in sorted(chosen.items()) if (value := measure(row)) is not None}

    def interval(self, world: str, build: int, setting: Setting, measure: Measure = found) -> Interval | None:
        """Mean over the seeds with its bootstrap interval; None where nothing was measured."""
        values = list(self.values(world, build, setting, measure).values())
        return _interval(values)

    def difference(self, world: str, build: int, first: Setting, second: Setting) -> Interval | None:
        """`first` − `second` over the seeds that have both, with its bootstrap interval."""
        a, b = self.values(world, build, first), self.values(world, build, second)
        shared = [seed for seed in a if seed in b]
        return _interval([a[seed] - b[seed] for seed in shared])


def _interval(values: Sequence[float]) -> Interval | None:
    if not values:
        return None
    # Files have four digits: what differs by less is equal.
    return bootstrap_interval([round(value, 6) for value in values])


def _shown(value: Interval | None, *, signed: bool = False) -> str:
    if value is None:
        return ""
    bounds = "" if value.low is None or value.high is None else f" [{_number(value.low)}, {_number(value.high)}]"
    return _number(value.value, signed) + ("" if value.low == value.high else bounds)


def _number(value: float, signed: bool = False) -> str:
    """Three decimals without the zero before the point."""
    text = fixed(value, sign=signed)
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def scorer_table(study: Study) -> str:
    """AUROC of every scorer by world, on build 0."""
    return _table("scorer", {name: [setting] for name, setting in SCORERS.items()}, study, _cell_auroc, average=True)


def fisher_table(study: Study) -> str:
    """AUROC at α = 10 α× of every Fisher estimator by world, on build 0."""
    named = {_estimated(fisher, at): [Setting("lwf", fisher, at, "10x")] for fisher, at in FISHERS}
    return _table("Fisher information", named, study, _cell_auroc, average=True)


def overall_table(study: Study) -> str:
    """Mean over worlds and lowest of a world, of the confidence with every Fisher information and step, on build 0."""

    def cell(step: str, pair: tuple[str, str]) -> str:
        values = [study.values(world, 0, Setting("lwf", *pair, step)) for world in study.worlds]
        means = [mean(found.values()) for found in values if found]
        return f"{_number(mean(means))} / {_number(min(means))}" if len(means) == len(values) else MISSING

    steps = {name: partial(cell, step) for name, step in _STEPS.items()}
    return table(FISHERS, {"Fisher information": lambda pair: _estimated(*pair), **steps})


def _estimated(fisher: str, at: str) -> str:
    return f"{fisher} at {_POINT[at]}"


def difference_table(study: Study) -> str:
    """AUROC of alternatives less that of the default, paired by reference run, on build 0."""
    named = {name: [setting, DEFAULT] for name, setting in SCORERS.items() if setting != DEFAULT}
    for fisher, at in FISHERS[1:]:
        setting = Setting("lwf", fisher, at, "1")
        named[f"{_estimated(fisher, at)}, α = 1"] = [setting, DEFAULT]
    return _table("in place of the default", named, study, _cell_difference, average=True)


def precision_table(study: Study) -> str:
    """Precision and AUROC against helpful samples alone, of every scorer by world, on build 0."""
    return _table("scorer", {name: [setting] for name, setting in SCORERS.items()}, study, _cell_precision)


def builds_table(study: Study) -> str:
    """Mean AUROC of every scorer by build."""

    def cell(study: Study, world: str, settings: Sequence[Setting]) -> str:
        values = [study.values(world, build, settings[0]) for build in study.builds]
        return " / ".join(_number(mean(found.values())) if found else MISSING for found in values)

    return _table("scorer", {name: [setting] for name, setting in SCORERS.items()}, study, cell)


def cost_table(study: Study) -> str:
    """Median processor seconds of every scorer by world, on build 0."""

    def cell(study: Study, world: str, settings: Sequence[Setting]) -> str:
        values = list(study.values(world, 0, settings[0], lambda row: row.seconds).values())
        return fixed(median(values), 1) if values else ""

    exact = {"exact Fisher information": Setting("lwf", "exact", "reference", "1")}
    chosen = {name: [setting] for name, setting in {**SCORERS, **exact}.items() if not name.startswith("α = ")}
    return _table("scorer", chosen, study, cell)


def _cell_auroc(study: Study, world: str, settings: Sequence[Setting]) -> str:
    return _shown(study.interval(world, 0, settings[0]))


def _cell_difference(study: Study, world: str, settings: Sequence[Setting]) -> str:
    return _shown(study.difference(world, 0, *settings), signed=True)


def _cell_precision(study: Study, world: str, settings: Sequence[Setting]) -> str:
    helpful = study.values(world, 0, settings[0], lambda row: row.detection.auroc_helpful)
    precision = study.values(world, 0, settings[0], lambda row: row.detection.precision)
    values = [_number(mean(values.values())) if values else MISSING for values in (precision, helpful)]
    return " / ".join(values)


def _table(
    head: str,
    named: dict[str, list[Setting]],
    study: Study,
    cell: Callable[[Study, str, Sequence[Setting]], str],
    *,
    average: bool = False,
) -> str:
    """A Markdown table: one row a name, one column a world; rows in which nothing was measured are left out."""
    worlds = [*study.worlds, MEAN] if average else study.worlds
    cells = {name: {world: cell(study, world, settings) for world in worlds} for name, settings in named.items()}
    shown = [name for name, texts in cells.items() if any(text.strip("–/ ") for text in texts.values())]
    columns = {world: lambda name, world=world: cells[name][world] for world in worlds}
    return table(shown, {head: str, **columns})


TABLES: dict[str, Callable[[Study], str]] = {
    "scoring_scorers": scorer_table,
    "scoring_fisher": fisher_table,
    "scoring_overall": overall_table,
    "scoring_differences": difference_table,
    "scoring_precision": precision_table,
    "scoring_builds": builds_table,
    "scoring_cost": cost_table,
}
