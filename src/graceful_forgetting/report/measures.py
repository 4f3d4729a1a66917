"""Everything that was measured of the models of a run, one row a number."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from graceful_forgetting.results.result import ArmSummary, TaskMetrics, TrainingRunResult
from graceful_forgetting.results.statistics import PairedInterval
from graceful_forgetting.results.summary import arm_summary, lwf_minus_plain, old_share, values_by_arm

# By heading: what `TaskMetrics` holds, in the order of the tables.
TASK_MEASURES: dict[str, Callable[[TaskMetrics], float | None]] = {
    "accuracy": lambda m: m.accuracy,
    "F1": lambda m: m.f1,
    "chrF": lambda m: m.chrf,
    "accuracy by likelihood": lambda m: None if m.choice is None else m.choice.accuracy,
    "accuracy by likelihood per byte": lambda m: None if m.choice is None else m.choice.accuracy_per_byte,
    "chance": lambda m: None if m.choice is None else m.choice.chance,
    "chance-adjusted, by likelihood": lambda m: None if m.choice is None else m.choice.adjusted,
    "chance-adjusted, by likelihood per byte": lambda m: None if m.choice is None else m.choice.adjusted_per_byte,
    "bits per byte (lower is better)": lambda m: m.bits_per_byte,
    "NLL per token (lower is better)": lambda m: m.nll_per_token,
    "share of unparsable answers": lambda m: m.unparsable / m.total if m.unparsable is not None and m.total else None,
    "share of old answers": old_share,
}


@dataclass(frozen=True)
class Measure:
    """One number of the models: of what (a task, a text), which, by arm over seeds, and the method − plain by seed."""

    subject: str
    metric: str
    arms: dict[str, ArmSummary]
    difference: PairedInterval | None


def task_measures(runs: Sequence[TrainingRunResult]) -> list[Measure]:
    """Of the tasks of the run: every measured number, by task."""
    rows = []
    for task in dict.fromkeys(task for run in runs for task in run.metrics):
        for name, read in TASK_MEASURES.items():
            rows += _measure(task, name, runs, partial(_of_task, task, read))
    return rows


def general_measures(runs: Sequence[TrainingRunResult]) -> list[Measure]:
    """Of general ability: bits per byte of the neutral text, and the numbers of lm-evaluation-harness."""
    rows = _measure("neutral text", "bits per byte (lower is better)", runs, lambda run: run.neutral_bits_per_byte)
    names = dict.fromkeys((task, metric) for run in runs for task, found in run.lm_eval.items() for metric in found)
    for task, metric in names:
        rows += _measure(f"lm-eval: {task}", metric, runs, partial(_of_harness, task, metric))
    return rows


def _of_task(task: str, read: Callable[[TaskMetrics], float | None], run: TrainingRunResult) -> float | None:
    return read(run.metrics[task]) if task in run.metrics else None


def _of_harness(task: str, metric: str, run: TrainingRunResult) -> float | None:
    return run.lm_eval.get(task, {}).get(metric)


def _measure(
    subject: str, metric: str, runs: Sequence[TrainingRunResult], read: Callable[[TrainingRunResult], float | None]
) -> list[Measure]:
    """The row of one number, or none where no run has it; a number that is not finite counts as not measured."""

    def finite(run: TrainingRunResult) -> float | None:
        value = read(run)
        return value if value is not None and math.isfinite(value) else None

    by_arm = values_by_arm(runs, finite)
    if not by_arm:
        return []
    arms = {arm: arm_summary(values) for arm, values in by_arm.items()}
    return [Measure(subject, metric, arms, lwf_minus_plain(by_arm))]


def run_measures(runs: Sequence[TrainingRunResult]) -> dict[str, Callable[[TaskMetrics], float | None]]:
    """Those of `TASK_MEASURES` that any of these runs has on any task."""
    metrics = [metrics for run in runs for metrics in run.metrics.values()]
    return {name: read for name, read in TASK_MEASURES.items() if any(read(found) is not None for found in metrics)}
