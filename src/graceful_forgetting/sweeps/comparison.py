"""Cells against each other: what each method gains over its controls, from the result files alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev

from graceful_forgetting.results.measures import (
    answer_split,
    area_under_curve,
    difference_over_seeds_and_items,
    distance_to_reference,
    evidence_required,
    gap_recovered_over,
    mean_ranks,
    memorisation_ratio,
    newly_right_and_broken,
    wilcoxon_p,
)
from graceful_forgetting.results.result import Metric
from graceful_forgetting.results.statistics import (
    GapRecovered,
    Interval,
    PairedInterval,
    gap_recovered,
    paired_interval,
)
from graceful_forgetting.results.summary import primary_metric
from graceful_forgetting.sweeps.cell import CellResult, CellRole

# Evidence is required for this share of what the model that never knew reaches with all learning examples.
EVIDENCE_SHARE = 0.9


@dataclass(frozen=True)
class Group:
    """The cells of one learning task, forgetting set and setting, by method in the order of the grid, by seed."""

    learning: str
    forgetting: str
    setting: str
    methods: dict[str, dict[int, CellResult]]

    @property
    def name(self) -> str:
        """Short, for headings: without what says nothing."""
        parts = [self.learning, None if self.forgetting == "mixed" else f"forgetting {self.forgetting}"]
        parts.append(None if self.setting == "default" else self.setting)
        return ", ".join(part for part in parts if part)

    @cached_property
    def metric(self) -> Metric:
        """Of all cells. Raises `ValueError` where they were measured differently."""
        metrics = {cell.metric for cells in self.methods.values() for cell in cells.values()}
        if len(metrics) > 1:
            raise ValueError(f"cells of {self.name} have different metrics: {', '.join(sorted(metrics))}")
        return metrics.pop()

    @cached_property
    def results(self) -> "list[MethodResult]":
        """Every method against its controls."""
        return [_method_result(self, method) for method in self.methods]

    def control(self, role: CellRole) -> str | None:
        """Name of the method with that role."""
        return next((n for n, cells in self.methods.items() if any(c.role == role for c in cells.values())), None)

    def forgets(self, method: str) -> bool:
        """Whether a method has unlearning or a baseline."""
        return any(cell.arm == "lwf" for cell in self.methods[method].values())

    def scores(self, method: str) -> list[float]:
        """By seed."""
        return [cell.score for cell in self.methods[method].values()]

    def paired(self, *methods: str | None) -> list[list[CellResult]]:
        """The cells of each method, for the seeds that all have; empty lists if one is missing or None."""
        named = [method for method in methods if method is not None and method in self.methods]
        if len(named) < len(methods):
            return [[] for _ in methods]
        seeds = [s for s in self.methods[named[0]] if all(s in self.methods[other] for other in named)]
        return [[self.methods[method][seed] for seed in seeds] for method in named]

    def paired_scores(self, *methods: str | None) -> list[list[float]]:
        """As `paired`, the scores."""
        return [[cell.score for cell in cells] for cells in self.paired(*methods)]


def groups_of(cells: Sequence[CellResult]) -> list[Group]:
    """Cells sorted into groups, in the order in which they come."""
    found: dict[tuple[str, str, str], dict[str, dict[int, CellResult]]] = {}
    for cell in cells:
        methods = found.setdefault((cell.learning, cell.forgetting, cell.setting), {})
        methods.setdefault(cell.method, {})[cell.seed] = cell
    return [Group(*where, methods=methods) for where, methods in found.items()]


@dataclass(frozen=True)
class MethodResult:
    """One method in one group. What needs a control that was not run is None.

    Attributes:
        mean, sd, seeds: of the learning task's metric over seeds.
        gain: M − K, paired by seed. over_items: the same with a bootstrap over seeds and items.
        p: Wilcoxon signed-rank test of M against K.
        gap: share of N − K recovered. beyond_random: of that, beyond the random control.
        newly_right, newly_broken: share of the items, against K of the same seed.
        split: right, old and other answers (of old answers that are known). memorisation: old / (old + right).
        distance: Kolmogorov–Smirnov distance of the truth ratios to N's of the same seed.
        area: mean height of the learning curve.
    """

    method: str
    seeds: int
    mean: float
    sd: float | None
    gain: PairedInterval | None
    over_items: Interval | None
    p: float | None
    gap: GapRecovered | None
    beyond_random: Interval | None
    newly_right: float | None
    newly_broken: float | None
    split: dict[str, float] | None
    memorisation: float | None
    distance: float | None
    area: float | None


def _method_result(group: Group, method: str) -> MethodResult:
    plain, never_knew, random = (group.control(role) for role in ("plain", "never_knew", "random"))
    own = list(group.methods[method].values())
    scores = [cell.score for cell in own]
    treated, base = group.paired(method, plain) if method != plain else [[], []]
    ours, theirs = ([cell.score for cell in cells] for cells in (treated, base))
    pairs = list(zip(treated, base, strict=True))
    comparable = bool(pairs) and all(a.answers and len(a.answers) == len(b.answers) for a, b in pairs)
    changed = [newly_right_and_broken(b.answers, a.answers) for a, b in pairs] if comparable else []
    items = len(treated[0].answers) if comparable else 1
    ratios = [memorisation_ratio(cell.answers) for cell in own if cell.truth_ratios is not None]
    known_ratios = [ratio for ratio in ratios if ratio is not None]
    return MethodResult(
        method=method,
        seeds=len(own),
        mean=fmean(scores),
        sd=stdev(scores) if len(scores) > 1 else None,
        gain=paired_interval(ours, theirs) if ours else None,
        over_items=_over_items(treated, base) if comparable else None,
        p=wilcoxon_p(ours, theirs) if len(ours) > 1 else None,
        gap=_gap(group, method, plain, never_knew),
        beyond_random=_beyond(group, method, plain, random, never_knew),
        newly_right=fmean(right for right, _ in changed) / items if changed else None,
        newly_broken=fmean(broken for _, broken in changed) / items if changed else None,
        split=_split(own),
        memorisation=fmean(known_ratios) if known_ratios else None,
        distance=_distance(group, method, never_knew),
        area=_area(own),
    )


def _over_items(treated: Sequence[CellResult], base: Sequence[CellResult]) -> Interval | None:
    answers, before = ([cell.answers for cell in cells] for cells in (treated, base))
    if len({len(row) for row in (*answers, *before)}) > 1:
        return None
    return difference_over_seeds_and_items(answers, before)


def _split(cells: Sequence[CellResult]) -> dict[str, float] | None:
    """Right, old and other answers; without known old answers only the right ones."""
    if not all(cell.answers for cell in cells):
        return None
    split = answer_split("".join(cell.answers for cell in cells))
    return split if all(cell.truth_ratios is not None for cell in cells) else {"right": split["right"]}


def _gap(group: Group, method: str, plain: str | None, never_knew: str | None) -> GapRecovered | None:
    if method in (plain, never_knew, group.control("scratch")):
        return None
    base, treated, upper = group.paired_scores(plain, method, never_knew)
    return gap_recovered(base, treated, upper) if base else None


def _beyond(
    group: Group, method: str, plain: str | None, random: str | None, never_knew: str | None
) -> Interval | None:
    if method in (plain, random, never_knew, group.control("scratch")):
        return None
    base, treated, control, upper = group.paired_scores(plain, method, random, never_knew)
    return gap_recovered_over(base, treated, control, upper) if base else None


def _distance(group: Group, method: str, never_knew: str | None) -> float | None:
    if method == never_knew:
        return None
    found = []
    for own, reference in zip(*group.paired(method, never_knew), strict=True):
        ratios = [[r for r in cell.truth_ratios or [] if r is not None] for cell in (own, reference)]
        if all(ratios):
            found.append(distance_to_reference(*ratios))
    return fmean(found) if found else None


def _area(cells: Sequence[CellResult]) -> float | None:
    curves = [[(p.step, p.accuracy) for p in cell.curve if p.accuracy is not None] for cell in cells]
    if any(len(curve) < 2 for curve in curves):
        return None
    return fmean(area_under_curve([s for s, _ in curve], [v for _, v in curve]) for curve in curves)


# Over groups ---------------------------------------------------------------------------------------------------------


def ranks_over_groups(groups: Sequence[Group]) -> dict[str, float]:
    """Mean rank of every trained method (not the model that never knew) over groups, best first."""
    return mean_ranks(
        [
            {
                method: fmean(group.scores(method))
                for method in group.methods
                if method not in (group.control("never_knew"), group.control("scratch"))
            }
            for group in groups
        ]
    )


@dataclass(frozen=True)
class EvidenceRow:
    """Mean score by number of learning examples, and the fewest with which the target is reached."""

    learning: str
    forgetting: str
    method: str
    by_size: dict[int, float]
    target: float
    required: int | None


def evidence_rows(groups: Sequence[Group]) -> list[EvidenceRow]:
    """For every method that was run with several numbers of learning examples, where a never-knew model was too.

    The target is `EVIDENCE_SHARE` of what that model reaches with the most examples.
    """
    sizes: dict[tuple[str, str], dict[str, dict[int, list[float]]]] = {}
    references: dict[tuple[str, str], str] = {}
    for group in groups:
        where = (group.learning, group.forgetting)
        never_knew = group.control("never_knew")
        if never_knew is not None:
            references[where] = never_knew
        for method, cells in group.methods.items():
            by_size = sizes.setdefault(where, {}).setdefault(method, {})
            rows_of = {cell.learning_rows for cell in cells.values()}
            # Of several settings with as many examples the first counts: the others change something else.
            if len(rows_of) == 1 and not rows_of & set(by_size):
                by_size[rows_of.pop()] = group.scores(method)
    rows = []
    for where, methods in sizes.items():
        if where not in references or len(methods[references[where]]) < 2:
            continue
        reference = methods[references[where]]
        target = EVIDENCE_SHARE * fmean(reference[max(reference)])
        for method, by_size in methods.items():
            means = {size: fmean(values) for size, values in sorted(by_size.items())}
            rows.append(EvidenceRow(*where, method, means, target, evidence_required(means, target)))
    return rows


@dataclass(frozen=True)
class Effect:
    """A forgetting task under a method: its metric, and the change against plain, paired by seed."""

    task: str
    metric: Metric
    mean: float
    change: PairedInterval | None


def effects(group: Group, method: str) -> list[Effect]:
    """What a method does to every task that is not the learned one."""
    own = list(group.methods[method].values())
    plain = group.control("plain")
    treated, base = group.paired(method, plain) if method != plain else [[], []]
    found = []
    for task in own[0].metrics:
        if task != own[0].learning_task:
            metric = primary_metric(own[0].metrics[task])[0]
            values, before = ([primary_metric(cell.metrics[task])[1] for cell in cells] for cells in (treated, base))
            change = paired_interval(values, before) if values else None
            mean = fmean(primary_metric(cell.metrics[task])[1] for cell in own)
            found.append(Effect(task, metric, mean, change))
    return found
