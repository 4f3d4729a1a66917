"""How finished runs differ: in settings and origin, in time, in what they chose to unlearn, in what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import stats

from graceful_forgetting.report.samples import ScoredSamples
from graceful_forgetting.results.arms import OWN
from graceful_forgetting.results.result import StageResult, TaskSummary
from graceful_forgetting.results.statistics import PairedInterval
from graceful_forgetting.results.summary import paired_by_seed
from graceful_forgetting.results.text import MISSING, setting
from graceful_forgetting.runs.finished_runs import FinishedRun

# Where a run writes, and how it shows its progress: every run differs there, and no number depends on it.
_OF_NO_EFFECT = frozenset({"output_dir", "run_name", "force", "disable_tqdm"})
Sample = tuple[str, str, str]


@dataclass(frozen=True)
class Row:
    """Something that not all runs have in common: its name and its value in every run, as text."""

    name: str
    values: list[str]


def settings_that_differ(runs: Sequence[FinishedRun]) -> list[Row]:
    """Settings by name; "default" where a result file does not list one, since it lists every changed one."""
    columns = [
        {name: setting(value) for name, value in run.result.config.items() if name not in _OF_NO_EFFECT} for run in runs
    ]
    return sorted(_differing(columns, "default"), key=lambda row: row.name)


def origins_that_differ(runs: Sequence[FinishedRun]) -> list[Row]:
    """Model, data, seeds, versions and machine."""
    return _differing([_origin(run) for run in runs], MISSING)


def evaluated_on_other_rows(runs: Sequence[FinishedRun], task: str) -> bool:
    """Whether a task was not evaluated on the same rows, as far as the fingerprints tell."""
    # The learning task's test rows are named by their role: a run has one.
    return any(
        len({run.result.provenance.data_fingerprints.get(name) for run in runs}) > 1
        for name in ([f"{task}_test"] if _role(runs, task) != "learning" else ["learning_test"])
    )


def _role(runs: Sequence[FinishedRun], task: str) -> str:
    return next(run.result.summary.tasks[task].role for run in runs if task in run.result.summary.tasks)


def _origin(run: FinishedRun) -> dict[str, str]:
    origin = run.result.provenance
    return {
        "base model": origin.model_fingerprint[:12],
        **{f"data: {name}": value[:12] for name, value in origin.data_fingerprints.items()},
        "seeds": ", ".join(map(str, origin.seeds)),
        "commit": origin.git_commit or "not a checkout",
        "Python": origin.python,
        "platform": origin.platform,
        "processors": str(origin.hardware.cpu_count),
        "processor": origin.hardware.processor or "not recorded",
        "torch threads": str(origin.hardware.torch_threads),
        "devices": ", ".join(device.name for device in origin.hardware.devices) or "none",
        **origin.packages,
    }


def _differing(columns: Sequence[Mapping[str, str]], missing: str) -> list[Row]:
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [Row(name, [column.get(name, missing) for column in columns]) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


# Numbers -------------------------------------------------------------------------------------------------------------


def against_first(runs: Sequence[FinishedRun], task: str) -> list[PairedInterval | None]:
    """The method of every run − that of the first, by seed; None for the first, and without a shared seed or metric."""
    summaries = [run.result.summary.tasks.get(task) for run in runs]
    return [None, *(_own_difference(summary, summaries[0]) for summary in summaries[1:])]


def _own_difference(summary: TaskSummary | None, first: TaskSummary | None) -> PairedInterval | None:
    if summary is None or first is None or summary.metric != first.metric:
        return None
    return paired_by_seed(summary.by_seed(OWN), first.by_seed(OWN))


@dataclass(frozen=True)
class StageTime:
    """Seconds of all stages of one kind ("plain" is every seed's plain run) in every run; None where it has none."""

    name: str
    seconds: list[float | None]


def stage_times(runs: Sequence[FinishedRun]) -> list[StageTime]:
    """By kind of stage, in the order in which they first appear."""
    kinds = dict.fromkeys(_kind(stage) for run in runs for stage in run.result.stages)
    times = []
    for kind in kinds:
        found = [[stage.seconds for stage in run.result.stages if _kind(stage) == kind] for run in runs]
        times.append(StageTime(kind, [sum(seconds) if seconds else None for seconds in found]))
    return times


def _kind(stage: StageResult) -> str:
    return stage.name.partition("/")[0].replace("_", " ")


# Selection -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overlap:
    """Two runs by position: samples that both scored, those of them that each and both chose, how alike the order is.

    `jaccard`: chosen by both / chosen by any; `rank_correlation`: Spearman's, of the confidence. None where there is
    nothing to compare.
    """

    first: int
    second: int
    shared: int
    chosen_first: int
    chosen_second: int
    chosen_both: int
    jaccard: float | None
    rank_correlation: float | None


def overlaps(samples: Sequence[ScoredSamples | None]) -> list[Overlap]:
    """Every pair of runs whose samples are at hand. A sample is the same if task, prompt and answer are."""
    indexed = [None if found is None else positions(found) for found in samples]
    pairs = []
    for first, second in combinations(range(len(samples)), 2):
        a, b, in_a, in_b = samples[first], samples[second], indexed[first], indexed[second]
        if a is None or b is None or in_a is None or in_b is None:
            continue
        shared = [sample for sample in in_a if sample in in_b]
        rows_a, rows_b = ([place[sample] for sample in shared] for place in (in_a, in_b))
        chosen_a, chosen_b = a.chosen[rows_a], b.chosen[rows_b]
        either, both = int((chosen_a | chosen_b).sum()), int((chosen_a & chosen_b).sum())
        pairs.append(
            Overlap(
                first,
                second,
                len(shared),
                int(chosen_a.sum()),
                int(chosen_b.sum()),
                both,
                both / either if either else None,
                _spearman(a.confidence[rows_a], b.confidence[rows_b]),
            )
        )
    return pairs


def positions(samples: ScoredSamples) -> dict[Sample, int]:
    """Row by task, prompt and answer; of equal samples, the first."""
    found: dict[Sample, int] = {}
    for row, (task, prompt, answer) in enumerate(
        zip(samples.task_index.tolist(), samples.prompts, samples.completions, strict=True)
    ):
        found.setdefault((samples.tasks[task], prompt, answer), row)
    return found


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite], b[finite]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(stats.spearmanr(a, b).statistic)


def percentile(values: np.ndarray) -> np.ndarray:
    """Share of the finite values that are smaller (ties in the middle), 0 to 1; NaN stays."""
    found = np.full(len(values), np.nan)
    finite = np.isfinite(values)
    if finite.any():
        found[finite] = (stats.rankdata(values[finite]) - 0.5) / finite.sum()
    return found
