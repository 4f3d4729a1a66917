"""From the finished stages of a run to its result and its report."""

from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from datasets import Dataset

from graceful_forgetting.config.selection import BY_THRESHOLD
from graceful_forgetting.results.provenance import collect_provenance
from graceful_forgetting.results.result import (
    GuardResult,
    LogEntry,
    RunResult,
    SelectionResult,
    TaskMetrics,
    TaskSelection,
    TrainingRunResult,
    TrialsResult,
)
from graceful_forgetting.results.schema import dataclass_from_plain
from graceful_forgetting.results.summary import summarise
from graceful_forgetting.runs.finished_runs import with_choice
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.training import LOG_FILE, UNLEARNING_FILE, line_search_of
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.training.preparation import SCORE_COLUMN, TASK_COLUMN
from graceful_forgetting.training.stages import Stage
from graceful_forgetting.training.trials import is_by_score

CROSSOVER_COLUMN = "step_size_crossover"
STEP_SIZE_COLUMN = "step_size"
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def assemble_result(pipeline: Pipeline) -> tuple[RunResult, Dataset]:
    """Evaluate what is not yet evaluated and put the run together.

    Returns:
        the result, and the scored self-knowledge with the column `chosen`.
    """
    runs = [_training_run(pipeline, arm, seed) for arm, seed in pipeline.arms]
    scored = with_choice(pipeline.method.scores().path, pipeline.method.selection().path)
    model, data, posterior = pipeline.fingerprints()
    result = RunResult(
        name=pipeline.lwf.run_name or _title(pipeline),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=pipeline.recipe(),
        provenance=collect_provenance(
            model_fingerprint=model,
            data_fingerprints=data,
            posterior_fingerprint=posterior,
            seeds=pipeline.seeds,
        ),
        stages=pipeline.directory.results,
        runs=runs,
        selection=_selection(pipeline, scored),
        summary=summarise(runs),
    )
    return result, scored


def _title(pipeline: Pipeline) -> str:
    return f"{pipeline.inputs.sources.learning_name}, forgetting {', '.join(pipeline.inputs.sources.forgetting)}"


def _training_run(pipeline: Pipeline, arm: Any, seed: int | None) -> TrainingRunResult:
    evaluation = pipeline.evaluation(arm, seed).path
    metrics = read_json(evaluation / "metrics.json")
    unlearning: dict[str, Any] = {"updates": 0, "guard": {"stopped": False, "reason": None, "step": None}}
    log: list[LogEntry] = []
    if seed is not None:
        stage = pipeline.arm(arm, seed)
        unlearning = read_json(stage.path / UNLEARNING_FILE)
        log = training_log(stage)
    return TrainingRunResult(
        arm=arm,
        seed=seed,
        training_log=log,
        metrics={
            task: dataclass_from_plain(TaskMetrics, values, f"metrics.{task}") for task, values in metrics.items()
        },
        unlearn_updates=unlearning["updates"],
        guard=GuardResult(**unlearning["guard"]),
        line_search=line_search_of(unlearning),
        **read_json(evaluation / "general.json"),
    )


def training_log(stage: Stage) -> list[LogEntry]:
    """The log of a training stage, without the Trainer's closing summary and evaluations."""
    entries = [entry for entry in read_json(Path(stage.path) / LOG_FILE) if "loss" in entry]
    return [
        LogEntry(
            step=entry["step"],
            loss=entry["loss"],
            learning_rate=entry.get("learning_rate"),
            grad_norm=entry.get("grad_norm"),
            unlearn_loss=entry.get("unlearn_loss"),
            unlearn_grad_norm=entry.get("unlearn_grad_norm"),
            unlearn_updates=entry.get("unlearn_updates"),
        )
        for entry in entries
    ]


def _selection(pipeline: Pipeline, scored: Dataset) -> SelectionResult:
    selection = pipeline.lwf.selection_config()
    trials = read_json(pipeline.method.selection().path / "selection.json").get("trials")
    chosen_scores = [score for score, chosen in zip(scored[SCORE_COLUMN], scored["chosen"], strict=True) if chosen]
    by_score = trials is None or is_by_score(trials["chosen"])
    single_cut = by_score and selection.quotas is None and selection.strategy in ("highest", *BY_THRESHOLD)
    tasks: dict[str, TaskSelection] = {}
    for name, source in pipeline.inputs.sources.forgetting.items():
        rows = [chosen for task, chosen in zip(scored[TASK_COLUMN], scored["chosen"], strict=True) if task == name]
        tasks[name] = TaskSelection(total=len(rows), chosen=sum(rows), kind=source.kind)
    crossovers = sorted(value for value in scored[CROSSOVER_COLUMN] if value is not None)
    step_sizes = [value for value in scored[STEP_SIZE_COLUMN] if value is not None]
    assert selection.strategy is not None
    return SelectionResult(
        strategy=selection.strategy,
        scored=len(scored),
        chosen=len(chosen_scores),
        cut=min(chosen_scores, default=None) if single_cut else None,
        step_size=median(step_sizes) if step_sizes else None,
        crossover_quantiles={str(q): crossovers[round(q * (len(crossovers) - 1))] for q in _QUANTILES if crossovers},
        tasks=tasks,
        trials=None if trials is None else TrialsResult(**trials),
    )
