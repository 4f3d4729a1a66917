"""From single runs to statements over seeds."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from graceful_forgetting.results.result import (
    Arm,
    ArmSummary,
    Metric,
    Summary,
    TaskMetrics,
    TaskSummary,
    TrainingRunResult,
)
from graceful_forgetting.results.statistics import PairedInterval, gap_recovered, paired_interval

# In order of preference. F1 and chrF are measured only for tasks that declare them as their metric.
_HIGHER_IS_BETTER: dict[Metric, bool] = {
    "f1": True,
    "chrf": True,
    "accuracy": True,
    "choice_accuracy": True,
    "bits_per_byte": False,
    "nll_per_token": False,
}


def summarise(runs: Sequence[TrainingRunResult]) -> Summary:
    """Mean and spread of every arm on every task, LWF − plain paired by seed, and the gap recovered.

    A task is summarised by F1 or chrF where that is its metric, else accuracy, else chance-adjusted accuracy by
    likelihood, else bits per byte, else negative log-likelihood per token: the first that every run with that task
    has. Only seeds that all compared arms share enter a comparison. Raises `ValueError` when an arm has a seed twice,
    when runs disagree on a task's role, or when they share no metric on a task.
    """
    seen: set[tuple[str, int | None]] = set()
    for run in runs:
        if (run.arm, run.seed) in seen:
            raise ValueError(f"runs holds arm {run.arm!r} with seed {run.seed} twice; keep one of them")
        seen.add((run.arm, run.seed))
    tasks = dict.fromkeys(task for run in runs for task in run.metrics)
    return Summary(tasks={task: _task_summary(task, runs) for task in tasks})


def _task_summary(task: str, runs: Sequence[TrainingRunResult]) -> TaskSummary:
    measured = {(run.arm, run.seed): run.metrics[task] for run in runs if task in run.metrics}
    roles = {metrics.role for metrics in measured.values()}
    if len(roles) > 1:
        raise ValueError(f"runs disagree on the role of task {task!r}: {', '.join(sorted(roles))}")
    metric = _shared_metric(task, list(measured.values()))
    by_arm = values_by_arm(runs, lambda run: _values(run.metrics[task])[metric] if task in run.metrics else None)
    gap = None
    triples = _shared_seeds(by_arm, "plain", "lwf", "never_knew")
    if triples:
        sign = 1.0 if _HIGHER_IS_BETTER[metric] else -1.0
        plain, lwf, reference = (
            [sign * by_arm[arm][seed] for seed in triples] for arm in ("plain", "lwf", "never_knew")
        )
        gap = gap_recovered(plain, lwf, reference)
    return TaskSummary(
        role=roles.pop(),
        metric=metric,
        higher_is_better=_HIGHER_IS_BETTER[metric],
        arms={arm: arm_summary(values) for arm, values in by_arm.items()},
        difference=lwf_minus_plain(by_arm),
        gap=gap,
    )


def _shared_metric(task: str, measured: list[TaskMetrics]) -> Metric:
    for metric in _HIGHER_IS_BETTER:
        if all(_values(metrics)[metric] is not None for metrics in measured):
            return metric
    names = ", ".join(_HIGHER_IS_BETTER)
    raise ValueError(f"runs share no metric on task {task!r}: measure one of {names} in all of them")


def _values(metrics: TaskMetrics) -> dict[Metric, float | None]:
    return {
        "f1": metrics.f1,
        "chrf": metrics.chrf,
        "accuracy": metrics.accuracy,
        "choice_accuracy": None if metrics.choice is None else metrics.choice.adjusted_per_byte,
        "bits_per_byte": metrics.bits_per_byte,
        "nll_per_token": metrics.nll_per_token,
    }


def old_share(metrics: TaskMetrics) -> float | None:
    """Share of the generated answers that older knowledge gives; None where it is not known what is old."""
    return None if metrics.old is None or metrics.total == 0 else metrics.old / metrics.total


def higher_is_better(metric: Metric) -> bool:
    """Whether more of it is better; less of a loss is."""
    return _HIGHER_IS_BETTER[metric]


def values_by_arm(
    runs: Sequence[TrainingRunResult], value: Callable[[TrainingRunResult], float | None]
) -> dict[str, dict[int | None, float]]:
    """One number of every run by arm and seed; without the runs, and the arms, that do not have it."""
    by_arm: dict[str, dict[int | None, float]] = {}
    for arm in get_args(Arm):
        found = {run.seed: number for run in runs if run.arm == arm and (number := value(run)) is not None}
        if found:
            by_arm[arm] = found
    return by_arm


def lwf_minus_plain(by_arm: Mapping[str, Mapping[int | None, float]]) -> PairedInterval | None:
    """The difference paired by seed; None without a shared seed."""
    return paired_by_seed(by_arm.get("lwf", {}), by_arm.get("plain", {}))


def arm_minus_plain(summary: TaskSummary, arm: str) -> PairedInterval | None:
    """The difference of another arm than the run's own to plain; None without a shared seed."""
    return paired_by_seed(summary.by_seed(arm), summary.by_seed("plain"))


def paired_by_seed(first: Mapping[int | None, float], second: Mapping[int | None, float]) -> PairedInterval | None:
    """`first` − `second` over the seeds that both have; None without one."""
    shared = [seed for seed in second if seed in first]
    if not shared:
        return None
    return paired_interval([first[seed] for seed in shared], [second[seed] for seed in shared])


def _shared_seeds(by_arm: Mapping[str, Mapping[int | None, float]], *arms: str) -> list[int | None]:
    if any(arm not in by_arm for arm in arms):
        return []
    return [seed for seed in by_arm[arms[0]] if all(seed in by_arm[arm] for arm in arms[1:])]


def arm_summary(values: Mapping[int | None, float]) -> ArmSummary:
    """Mean and spread of one arm's values by seed."""
    numbers = list(values.values())
    return ArmSummary(
        n=len(numbers),
        mean=statistics.fmean(numbers),
        sd=statistics.stdev(numbers) if len(numbers) > 1 else None,
        seeds=list(values),
        values=numbers,
    )


def primary_metric(metrics: TaskMetrics) -> tuple[Metric, float, bool]:
    """What a task is summarised by where only one run is at hand: name, value, whether higher is better.

    Raises `ValueError` if nothing was measured.
    """
    measured = _values(metrics)
    metric = _shared_metric("of one run", [metrics])
    value = measured[metric]
    assert value is not None
    return metric, value, _HIGHER_IS_BETTER[metric]
