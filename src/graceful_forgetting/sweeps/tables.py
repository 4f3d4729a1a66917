"""The tables of a sweep as text, for Markdown and HTML alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from graceful_forgetting.results.measures import Interval, auroc, expanded, precision_at
from graceful_forgetting.results.result import Metric
from graceful_forgetting.results.statistics import GapRecovered, PairedInterval
from graceful_forgetting.results.times import duration
from graceful_forgetting.sweeps.cell import CellResult, ScoreSummary
from graceful_forgetting.sweeps.comparison import (
    EVIDENCE_SHARE,
    Group,
    MethodResult,
    effects,
    evidence_rows,
    groups_of,
    method_results,
    ranks_over_groups,
)

NONE = "–"
PRECISION_SHARES = (0.1, 0.25)
_PERCENT: tuple[Metric, ...] = ("accuracy",)


@dataclass(frozen=True)
class Table:
    """A table: `rows` of as many cells as `columns`; `note` stands under it."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        """GitHub's form, with the title as a heading."""
        lines = [f"### {self.title}", "", *(_markdown_row(row) for row in (self.columns, ["---"] * len(self.columns)))]
        lines += [_markdown_row(row) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def sweep_tables(cells: Sequence[CellResult]) -> list[Table]:
    """Every table that the cells have something for, in reading order."""
    groups = groups_of(cells)
    compared = [(group, method_results(group)) for group in groups]
    found = [_overview(compared), _ranks(groups), _evidence(groups)]
    for group, results in compared:
        found += [_gains(group, results), _answers(group, results), _effects(group), _scores(group)]
    found.append(_cost(cells))
    return [table for table in found if table is not None and table.rows]


def markdown_document(name: str, cells: Sequence[CellResult]) -> str:
    """All tables of a sweep as one Markdown text."""
    tables = sweep_tables(cells)
    return "\n\n".join([f"## {name}", *(table.markdown() for table in tables)]) + "\n"


# Numbers as text -----------------------------------------------------------------------------------------------------


def shown(value: float | None, metric: Metric, signed: bool = False) -> str:
    """A value of a metric: accuracies in %, everything else with three decimals."""
    if value is None:
        return NONE
    text = f"{100 * value:{'+' if signed else ''}.1f}" if metric in _PERCENT else f"{value:{'+' if signed else ''}.3f}"
    return text.replace("-", "−")


def _spread(mean: float, sd: float | None, metric: Metric) -> str:
    return shown(mean, metric) + ("" if sd is None else f" ± {shown(sd, metric)}")


def _difference(interval: PairedInterval | None, metric: Metric) -> str:
    if interval is None:
        return NONE
    text = shown(interval.difference, metric, signed=True)
    if interval.low is None:
        return text
    return f"{text} [{shown(interval.low, metric)}, {shown(interval.high, metric)}]"


def _bounds(interval: Interval | None, metric: Metric) -> str:
    return NONE if interval is None or interval.low is None else _range(interval.low, interval.high, metric)


def _range(low: float | None, high: float | None, metric: Metric) -> str:
    return f"[{shown(low, metric)}, {shown(high, metric)}]"


def _share(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{100 * value:.{digits}f} %".replace("-", "−")


def _recovered(gap: GapRecovered | Interval | None) -> str:
    value = gap.fraction if isinstance(gap, GapRecovered) else None if gap is None else gap.value
    if gap is None or value is None:
        return NONE
    return _share(value) + ("" if gap.low is None else f" [{_share(gap.low)}, {_share(gap.high)}]")


def _number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}".replace("-", "−")


# Tables --------------------------------------------------------------------------------------------------------------


def _overview(compared: Sequence[tuple[Group, list[MethodResult]]]) -> Table:
    """One line a group: the gap, and the best method that forgets."""
    rows = []
    for group, found in compared:
        plain, never_knew = group.control("plain"), group.control("never_knew")
        results = {result.method: result for result in found}
        lwf = [r for r in results.values() if any(c.arm == "lwf" for c in group.methods[r.method].values())]
        best = max(lwf, key=lambda result: result.mean, default=None)
        gap = results[never_knew].gain if never_knew is not None else None
        rows.append(
            [
                group.learning,
                group.forgetting,
                group.setting,
                shown(results[plain].mean, group.metric) if plain is not None else NONE,
                _difference(gap, group.metric),
                NONE if best is None else best.method,
                _difference(None if best is None else best.gain, group.metric),
                _recovered(None if best is None else best.gap),
            ]
        )
    columns = [
        "learning", "forgetting", "setting", "plain", "gap: never knew − plain", "best that forgets", "its gain",
        "gap recovered",
    ]  # fmt: skip
    note = (
        "Accuracies in %; [95 % intervals] over seeds: Student's t of paired differences, bootstrap of shares. The "
        "best of several methods on the seeds that it was chosen on flatters it: the tables below have all of them."
    )
    return Table("Overview", columns, rows, note)


def _ranks(groups: Sequence[Group]) -> Table | None:
    if len(groups) < 2:
        return None
    rows = [[method, f"{rank:.2f}"] for method, rank in ranks_over_groups(groups).items()]
    return Table(
        "Mean rank", ["method", f"mean rank over {len(groups)} combinations"], rows,
        "1 is best; the model that never knew and the one from scratch are not ranked.",
    )  # fmt: skip


def _evidence(groups: Sequence[Group]) -> Table | None:
    found = evidence_rows(groups)
    if not found:
        return None
    sizes = sorted({size for row in found for size in row.by_size})
    metric = groups[0].metric
    rows = [
        [row.learning, row.forgetting, row.method]
        + [shown(row.by_size.get(size), metric) for size in sizes]
        + [shown(row.target, metric), NONE if row.required is None else str(row.required)]
        for row in found
    ]
    columns = ["learning", "forgetting", "method", *(f"{n} examples" for n in sizes), "target", "required"]
    note = (
        f"Required: the fewest learning examples, of the numbers that were run, with which the mean reaches "
        f"{EVIDENCE_SHARE:g} of what the model that never knew reaches with the most."
    )
    return Table("Evidence required", columns, rows, note)


def _gains(group: Group, results: Sequence[MethodResult]) -> Table:
    metric = group.metric
    rows = [
        [
            r.method,
            str(r.seeds),
            _spread(r.mean, r.sd, metric),
            _difference(r.gain, metric),
            _bounds(r.over_items, metric),
            _number(r.p, 4),
            _recovered(r.gap),
            _recovered(r.beyond_random),
            shown(r.area, "accuracy"),
        ]
        for r in results
    ]
    columns = [
        "method", "seeds", metric.replace("_", " "), "− plain [t, seeds]", "[bootstrap, seeds and items]", "Wilcoxon p",
        "gap recovered", "beyond random", "area under curve",
    ]  # fmt: skip
    return Table(f"{group.name}: what is gained", columns, rows)


def _answers(group: Group, results: Sequence[MethodResult]) -> Table | None:
    if all(result.split is None for result in results):
        return None
    rows = [
        [
            r.method,
            _share(r.newly_right, 1),
            _share(r.newly_broken, 1),
            *(_share(None if r.split is None else r.split.get(name), 1) for name in ("right", "old", "other")),
            _number(r.memorisation),
            _number(r.distance, 3),
        ]
        for r in results
    ]
    columns = [
        "method", "newly right", "newly broken", "right", "old answer", "other", "memorisation ratio",
        "distance to never-knew",
    ]  # fmt: skip
    note = (
        "Newly right and broken: share of the items, against plain with the same seed. Memorisation ratio: old / (old "
        "+ right). Distance: Kolmogorov–Smirnov, of log P(old) − log P(right) by item."
    )
    return Table(f"{group.name}: answers", columns, rows, note)


def _effects(group: Group) -> Table | None:
    by_method = {method: effects(group, method) for method in group.methods}
    tasks = {effect.task: effect.metric for found in by_method.values() for effect in found}
    if not tasks:
        return None
    rows = []
    for method, found in by_method.items():
        values = {effect.task: effect for effect in found}
        cells = []
        for task, metric in tasks.items():
            effect = values.get(task)
            change = None if effect is None else effect.change
            mean = shown(None if effect is None else effect.mean, metric)
            cells.append(mean if change is None else f"{mean} ({_difference(change, metric)})")
        measured = [cell.metrics[task].bits_per_byte for cell in group.methods[method].values() for task in tasks]
        bits = [value for value in measured if value is not None]
        rows.append([method, *cells, _number(fmean(bits) if bits else None, 3)])
    columns = ["method", *(f"{task}, {metric.replace('_', ' ')}" for task, metric in tasks.items()), "bits per byte"]
    note = "In brackets: change against plain, paired by seed. Bits per byte: mean over these tasks."
    return Table(f"{group.name}: other tasks", columns, rows, note)


def _scores(group: Group) -> Table | None:
    found: dict[str, list[str]] = {}
    crossovers: list[float] = []
    for seeds in group.methods.values():
        for cell in seeds.values():
            if cell.scores is not None:
                for name, ranking in _named_rankings(cell.scores).items():
                    found.setdefault(name, []).append(ranking)
                crossovers += [] if cell.scores.crossover is None else [cell.scores.crossover]
    if not found:
        return None
    rows = []
    for name, lengths in found.items():
        rankings = [expanded(ranking) for ranking in dict.fromkeys(lengths)]
        row = [name, *(_mean_auroc(rankings, others) for others in (None, "h", "n"))]
        for share in PRECISION_SHARES:
            row.append(_share(fmean(precision_at(r, "c", max(1, round(share * len(r)))) for r in rankings)))
        rows.append(row)
    columns = ["score", "AUROC", "against helpful", "against neutral"]
    columns += [f"precision in the top {_share(share)}" for share in PRECISION_SHARES]
    note = "Samples that conflict are to be found; means over the rankings of all seeds."
    if crossovers:
        note += f" α× = {fmean(crossovers):.3g}: the step size at which both terms of the median sample are equal."
    return Table(f"{group.name}: scores", columns, rows, note)


def _named_rankings(scores: ScoreSummary) -> dict[str, str]:
    return scores.rankings | {f"lwf, α = {name} α×": ranking for name, ranking in scores.by_step_size.items()}


def _mean_auroc(rankings: Sequence[str], negative: str | None) -> str:
    values = [value for ranking in rankings if (value := auroc(ranking, "c", negative)) is not None]
    return _number(fmean(values), 3) if values else NONE


def _cost(cells: Sequence[CellResult]) -> Table:
    """Time and memory by kind of stage; each stage counts once, whichever cells shared it."""
    stages: dict[str, dict[str, Any]] = {}
    for cell in cells:
        for stage in cell.stages:
            stages.setdefault(stage.name.split("/")[0], {})[stage.key] = stage
    rows = []
    for name, made in stages.items():
        seconds = [stage.seconds for stage in made.values()]
        memory = [stage.peak_memory_bytes for stage in made.values() if stage.peak_memory_bytes is not None]
        peak = f"{max(memory) / 2**20:.0f} MiB" if memory else NONE
        rows.append([name, str(len(made)), duration(fmean(seconds)), duration(sum(seconds)), peak])
    return Table("Cost", ["stage", "made", "mean time", "all", "peak memory of a process"], rows)
