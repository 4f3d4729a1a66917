"""What a run is about: model, learning task, forgetting tasks. Settings of the method itself are in `LWFConfig`."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from graceful_forgetting.config import MethodName
from graceful_forgetting.config.fields import require_choice
from graceful_forgetting.worlds import WORLDS, Difficulty


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class RunArguments:
    """Fields of a recipe that no stage config has. Raises `ValueError` naming the field that is missing or wrong."""

    world: str | None = _setting(
        None,
        "A world with known ground truth in place of tasks and model: " + ", ".join(WORLDS) + ".",
    )
    world_train_share: float | None = _setting(
        None, "Share of a world's entities that its learning task shows, up to 0.3; unset: the world's own."
    )
    world_pretraining_steps: int | None = _setting(
        None, "Updates of the pre-training of a world's models; unset: the world's own."
    )
    world_label_noise: float | None = _setting(
        None, "Share of mislabelled answers in that pre-training; unset: the world's own."
    )
    world_harmful_share: float | None = _setting(
        None, "Share of a world's forgetting rows that conflict, from 0.1 to 1; unset: all rows are kept."
    )
    world_seed: int = _setting(0, "Seed of the pre-training of a world's models (its facts never change).")
    world_split: Literal["test", "validation"] = _setting(
        "test", "Held-out rows of a world that its learning task is evaluated on; choose settings on validation."
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
    method: MethodName | None = _setting(
        None,
        "Settings to start from, which all others beat: 'published' is the method as its paper has it; unset: the "
        "defaults.",
    )
    data_source: str = _setting(
        "hub",
        "Where known tasks come from: 'hub', 'sample' (rows in the package), or a folder with one folder a task.",
    )
    learning_limit: int | None = _setting(None, "Learning examples used, drawn by seed; unset: all.")
    validation_limit: int = _setting(
        200,
        "Training rows of learning_task beyond learning_limit, where it has more, that are held out to watch training "
        "and for guard_fallback; 0: none. A world has its own.",
    )
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
        difficulty = self.world_difficulty()
        if self.method is not None:
            require_choice("method", self.method, get_args(MethodName))
        if self.world is None:
            for name in ("learning_task", "forgetting_tasks"):
                if not getattr(self, name):
                    raise ValueError(f"{name} is not set: name a task or a path (or set world)")
        elif self.learning_task or self.never_knew_model:
            raise ValueError(f"world={self.world!r} brings its own learning_task and never_knew_model: remove these")
        if self.world is None and (difficulty != Difficulty() or self.world_seed != 0 or self.world_split != "test"):
            raise ValueError("a field world_... is set and world is not: name a world, or remove the field")
        if self.world_split not in ("test", "validation"):
            raise ValueError(f"world_split={self.world_split!r} is not valid: it must be test or validation")
        for name in ("learning_limit", "forgetting_limit", "eval_limit", "lm_eval_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not valid: it must be at least 1, or unset for all")
        if self.validation_limit < 0:
            raise ValueError(f"validation_limit={self.validation_limit} is not valid: it must be 0 (none) or more")
        for name in ("eval_max_new_tokens", "evaluation_batch_size", "num_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not valid: it must be at least 1")

    def world_difficulty(self) -> Difficulty:
        """The difficulty of the world. Raises `ValueError` naming the field that is out of range."""
        try:
            return Difficulty(
                train_share=self.world_train_share,
                pretraining_steps=self.world_pretraining_steps,
                label_noise=self.world_label_noise,
                harmful_share=self.world_harmful_share,
            )
        except ValueError as error:
            raise ValueError(f"world_{error}") from error
