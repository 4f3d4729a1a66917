"""The test of one model of a run on every task with answers, and on what no task is about; written to a folder."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

from graceful_forgetting.evaluation.evaluate import evaluate_items
from graceful_forgetting.evaluation.general_ability import GeneralAbility
from graceful_forgetting.results.result import TaskMetrics
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.inputs import RunInputs
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.progress import joint_progress


def examination_settings(run: RunArguments, inputs: RunInputs, general_ability: GeneralAbility) -> dict[str, Any]:
    """All that decides the outcome but the model."""
    return {
        "max_new_tokens": run.eval_max_new_tokens,
        "tokenizer": inputs.tokenizer_fingerprint,
        "in_turns": [inputs.in_turns, inputs.system_prompt],
        "general_ability": general_ability.settings(),
        "tasks": {
            name: None if task is None else [task.metric, task.definition]
            for name, (_, _, task) in inputs.test_sets.items()
        },
        "data": {name: value for name, value in inputs.data_fingerprints.items() if name.endswith("_test")},
    }


def examine(
    folder: Path,
    model: PreTrainedModel | PeftModel,
    run: RunArguments,
    inputs: RunInputs,
    general_ability: GeneralAbility,
    description: str,
) -> dict[str, str]:
    """Write `metrics.json`, `items.json` and `general.json`; returns one figure a task, as text."""
    metrics, items = {}, {}
    answers = sum(_answers(rows, run.generates) for rows, _, _ in inputs.test_sets.values())
    with joint_progress(description, "answers", answers):
        for name, (_, role, task) in inputs.test_sets.items():
            metrics[name], items[name] = evaluate_items(
                model,
                inputs.evaluation_rows[name],
                role,
                task,
                batch_size=run.evaluation_batch_size,
                max_new_tokens=run.eval_max_new_tokens,
                description=f"{description}: {name}",
                generate=run.generates,
            )
    write_json(folder / "metrics.json", {name: asdict(metric) for name, metric in metrics.items()})
    write_json(folder / "items.json", {name: asdict(item) for name, item in items.items()})
    general = general_ability.measure(
        model, inputs.tokenizer, in_turns=inputs.in_turns, system_prompt=inputs.system_prompt
    )
    write_json(folder / "general.json", general)
    return {name: _in_short(metric) for name, metric in metrics.items()}


def _answers(rows: Dataset, generate: bool) -> int:
    """Answers that one model is asked for: those that it generates, and those whose likelihood it gives."""
    given = sum(map(len, rows["choices"][:])) if "choices" in rows.column_names else len(rows)
    return given + (len(rows) if generate else 0)


def _in_short(metrics: TaskMetrics) -> str:
    if metrics.correct is not None:
        return f"{metrics.correct}/{metrics.total} correct"
    if metrics.choice is not None:
        return f"{100 * metrics.choice.accuracy_per_byte:.1f} % by likelihood"
    return f"{metrics.bits_per_byte:.3f} bits per byte"
