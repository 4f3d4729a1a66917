"""The tables of a sweep as text, for Markdown and HTML alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

from graceful_forgetting.results.measures import auroc, expanded, precision_at
from graceful_forgetting.results.result import Metric
from graceful_forgetting.results.statistics import GapRecovered, Interval, PairedInterval
from graceful_forgetting.results.summary import higher_is_better, old_share
from graceful_forgetting.results.text import MISSING, duration, estimate, fixed, interval, measured, share, size, spread
from graceful_forgetting.results.text_tables import markdown_table
from graceful_forgetting.sweeps.cell import CellResult, ScoreSummary
from graceful_forgetting.sweeps.comparison import (
    EVIDENCE_SHARE,
    Group,
    effects,
    evidence_rows,
    ranks_over_groups,
)

PRECISION_SHARES = (0.1, 0.25)


@dataclass(frozen=True)
class Table:
    """A table: `rows` of as many cells as `columns`; `note` stands under it."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""

    def markdown(self) -> str:
        """GitHub's form, with the title as a heading."""
        return f"### {self.title}\n\n{markdown_table(self.columns, self.rows, self.note, rule=' --- ')}"


def sweep_tables(cells: Sequence[CellResult], groups: Sequence[Group]) -> list[Table]:
    """Every table that the cells, which are those of `groups`, have something for, in reading order."""
    found = [_overview(groups), _ranks(groups), _evidence(groups)]
    for group in groups:
        found += [_gains(group), _answers(group), _effects(group), _scores(group)]
    found.append(_cost(cells))
    return [table for table in found if table is not None and table.rows]


def markdown_document(name: str, tables: Sequence[Table]) -> str:
    """All tables of a sweep as one Markdown text."""
    return "\n\n".join([f"## {name}", *(table.markdown() for table in tables)]) + "\n"


# Numbers as text -----------------------------------------------------------------------------------------------------


def _difference(found: PairedInterval | None, metric: Metric) -> str:
    if found is None:
        return MISSING
    return estimate(found.difference, found.low, found.high, partial(measured, metric=metric))


def _bounds(found: Interval | None, metric: Metric) -> str:
    if found is None or found.low is None or found.high is None:
        return MISSING
    return interval(found.low, found.high, partial(measured, metric=metric))


def _recovered(gap: GapRecovered | Interval | None) -> str:
    value = gap.fraction if isinstance(gap, GapRecovered) else None if gap is None else gap.value
    if gap is None or value is None:
        return MISSING
    return share(value) + ("" if gap.low is None or gap.high is None else f" {interval(gap.low, gap.high, share)}")


# Tables --------------------------------------------------------------------------------------------------------------


def _overview(groups: Sequence[Group]) -> Table:
    """One line a group: the gap, and the best method that forgets."""
    rows = []
    for group in groups:
        plain, never_knew = group.control("plain"), group.control("never_knew")
        results = {result.method: result for result in group.results}
        lwf = [result for result in group.results if group.forgets(result.method)]
        best = max(lwf, key=lambda result: result.mean, default=None)
        gap = results[never_knew].gain if never_knew is not None else None
        rows.append(
            [
                group.learning,
                group.forgetting,
                group.setting,
                measured(results[plain].mean, group.metric) if plain is not None else MISSING,
                _difference(gap, group.metric),
                MISSING if best is None else best.method,
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
    if not all(higher_is_better(group.metric) for group in groups):
        note += " Losses have a minus sign, so that more is better."
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
        + [measured(row.by_size.get(size), metric) for size in sizes]
        + [measured(row.target, metric), MISSING if row.required is None else str(row.required)]
        for row in found
    ]
    columns = ["learning", "forgetting", "method", *(f"{n} examples" for n in sizes), "target", "required"]
    note = (
        f"Required: the fewest learning examples, of the numbers that were run, with which the mean reaches "
        f"{EVIDENCE_SHARE:g} of what the model that never knew reaches with the most."
    )
    return Table("Evidence required", columns, rows, note)


def _gains(group: Group) -> Table:
    metric = group.metric
    rows = [
        [
            r.method,
            str(r.seeds),
            spread(r.mean, r.sd, partial(measured, metric=metric)),
            _difference(r.gain, metric),
            _bounds(r.over_items, metric),
            fixed(r.p, 4),
            _recovered(r.gap),
            _recovered(r.beyond_random),
            measured(r.area, "accuracy"),
        ]
        for r in group.results
    ]
    heading = ("" if higher_is_better(metric) else "−") + metric.replace("_", " ")
    columns = [
        "method", "seeds", heading, "− plain [t, seeds]", "[bootstrap, seeds and items]", "Wilcoxon p",
        "gap recovered", "beyond random", "area under curve",
    ]  # fmt: skip
    return Table(f"{group.name}: what is gained", columns, rows)


def _answers(group: Group) -> Table | None:
    if all(result.split is None for result in group.results):
        return None
    rows = [
        [
            r.method,
            share(r.newly_right, 1),
            share(r.newly_broken, 1),
            *(share(None if r.split is None else r.split.get(name), 1) for name in ("right", "old", "other")),
            fixed(r.memorisation, 2),
            fixed(r.distance),
        ]
        for r in group.results
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
    with_old = [task for task in tasks if any(_mean_old(group, method, task) is not None for method in group.methods)]
    rows = []
    for method, found in by_method.items():
        values = {effect.task: effect for effect in found}
        cells = []
        for task, metric in tasks.items():
            effect = values.get(task)
            change = None if effect is None else effect.change
            mean = measured(None if effect is None else effect.mean, metric)
            cells.append(mean if change is None else f"{mean} ({_difference(change, metric)})")
        cells += [share(_mean_old(group, method, task), 1) for task in with_old]
        known = (cell.metrics[task].bits_per_byte for cell in group.methods[method].values() for task in tasks)
        bits = [value for value in known if value is not None]
        rows.append([method, *cells, fixed(fmean(bits) if bits else None)])
    measures = [f"{task}, {metric.replace('_', ' ')}" for task, metric in tasks.items()]
    columns = ["method", *measures, *(f"{task}, old answers" for task in with_old), "bits per byte"]
    note = "In brackets: change against plain, paired by seed. Bits per byte: mean over these tasks."
    return Table(f"{group.name}: other tasks", columns, rows, note)


def _mean_old(group: Group, method: str, task: str) -> float | None:
    """Share of the old answers to a task, mean over seeds; None where it is not known."""
    shares = [old_share(cell.metrics[task]) for cell in group.methods[method].values()]
    known = [value for value in shares if value is not None]
    return fmean(known) if known else None


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
        for top in PRECISION_SHARES:
            row.append(share(fmean(precision_at(r, "c", max(1, round(top * len(r)))) for r in rankings)))
        rows.append(row)
    columns = ["score", "AUROC", "against helpful", "against neutral"]
    columns += [f"precision in the top {share(top)}" for top in PRECISION_SHARES]
    note = "Samples that conflict are to be found; means over the rankings of all seeds."
    if crossovers:
        note += f" α× = {fmean(crossovers):.3g}: the step size at which both terms of the median sample are equal."
    return Table(f"{group.name}: scores", columns, rows, note)


def _named_rankings(scores: ScoreSummary) -> dict[str, str]:
    return scores.rankings | {f"lwf, α = {name} α×": ranking for name, ranking in scores.by_step_size.items()}


def _mean_auroc(rankings: Sequence[str], negative: str | None) -> str:
    values = [value for ranking in rankings if (value := auroc(ranking, "c", negative)) is not None]
    return fixed(fmean(values) if values else None)


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
        peak = size(max(memory, default=None))
        rows.append([name, str(len(made)), duration(fmean(seconds)), duration(sum(seconds)), peak])
    return Table("Cost", ["stage", "made", "mean time", "all", "peak memory of a process"], rows)
