"""What a run is about: model, learning task, forgetting tasks. Settings of the method itself are in `LWFConfig`."""

from dataclasses import dataclass, field
from typing import Any

from graceful_forgetting.worlds import WORLDS


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class RunArguments:
    """Fields of a recipe that no stage config has. Raises `ValueError` naming the field that is missing or wrong."""

    world: str | None = _setting(
        None,
        "A world with known ground truth in place of tasks and model: " + ", ".join(WORLDS) + ".",
    )
    learning_task: str | None = _setting(
        None,
        "What is learned: a task's name (`graceful tasks list`), <name>@<path of its rows>, a YAML task, or the path "
        "of your own JSONL file or of a folder with train.jsonl.",
    )
    forgetting_tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "What may be forgotten: task names or paths; several make mixed forgetting. With a world: which of "
            "its forgetting tasks, unset for all."
        },
    )
    data_source: str = _setting(
        "hub",
        "Where known tasks come from: 'hub', 'sample' (rows in the package), or a folder with one folder a task.",
    )
    learning_limit: int | None = _setting(None, "Learning examples used, drawn by seed; unset: all.")
    forgetting_limit: int | None = _setting(None, "Prompts used of each forgetting task, drawn by seed; unset: all.")
    eval_limit: int | None = _setting(None, "Test rows used of each task, drawn by seed; unset: all.")
    eval_max_new_tokens: int = _setting(256, "Longest answer generated in the evaluation, in tokens.")
    eval_generate: bool = _setting(
        True, "Generate answers in the evaluation; off: likelihoods alone, without accuracy of generated answers."
    )
    neutral_text: str | None = _setting(
        None,
        "Text that no task is about, of which every model's bits per byte are measured: a file, or 'sample' for the "
        "8 KB in the package.",
    )
    lm_eval_tasks: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tasks of lm-evaluation-harness on every model: names, YAML files or folders; needs the extra eval."
        },
    )
    lm_eval_limit: int | None = _setting(None, "Documents used of each of lm_eval_tasks; unset: all.")
    # Not `eval_batch_size`, which TrainingArguments has as a property.
    evaluation_batch_size: int = _setting(32, "Answers generated at once in the evaluation.")
    never_knew_model: str | None = _setting(
        None, "A model pre-trained without the harmful knowledge, fine-tuned plainly as the upper reference."
    )
    num_seeds: int = _setting(1, "Training runs of each arm, with seed, seed + 1, ...")
    force: bool = _setting(False, "Redo every stage of this command, whatever the run directory holds.")

    def __post_init__(self) -> None:
        if self.world is None:
            for name in ("learning_task", "forgetting_tasks"):
                if not getattr(self, name):
                    raise ValueError(f"{name} is not set: name a task or a path (or set world)")
        elif self.learning_task or self.never_knew_model:
            raise ValueError(f"world={self.world!r} brings its own learning_task and never_knew_model: remove these")
        for name in ("learning_limit", "forgetting_limit", "eval_limit", "lm_eval_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not valid: it must be at least 1, or unset for all")
        for name in ("eval_max_new_tokens", "evaluation_batch_size", "num_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not valid: it must be at least 1")
