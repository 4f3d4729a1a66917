"""What a run is about: learning task, forgetting tasks, evaluation, methods beside its own.

Settings of the method are in `LWFConfig`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from graceful_forgetting.config import LWFConfig, MethodName
from graceful_forgetting.config.fields import mapping_of, require_choice, setting
from graceful_forgetting.results.arms import OTHERS, OWN
from graceful_forgetting.worlds import WORLDS, Difficulty

PromptStyle = Literal["auto", "chat", "plain"]
WORLD_OPTIONS = ("train_share", "pretraining_steps", "label_noise", "harmful_share", "split")


@dataclass
class RunArguments:
    """Fields of a recipe that no stage config has. Raises `ValueError` naming the field that is missing or wrong."""

    world: str | None = setting(
        None,
        "A world with known ground truth in place of tasks and model: " + ", ".join(WORLDS) + ".",
    )
    world_seed: int = setting(0, "Seed of the pre-training of a world's models (its facts never change).")
    world_options: dict[str, Any] | str | None = setting(
        None,
        "Other values than a world's own. train_share: share of its entities that the learning task shows, up to 0.3. "
        "pretraining_steps: updates of its models' pre-training. label_noise: share of mislabelled answers there. "
        "harmful_share: share of the forgetting rows that conflict, from 0.1 to 1. split: 'validation' evaluates on "
        "the rows that settings should be chosen on, in place of 'test'. JSON on the command line.",
    )
    learning_task: str | None = setting(
        None,
        "What is learned: a task's name (`graceful tasks list`), <name>@<path of its rows>, a YAML task, or the path "
        "of your own JSONL file or of a folder with train.jsonl.",
    )
    forgetting_tasks: list[str] | None = setting(
        None,
        "What may be forgotten: task names or paths; several make mixed forgetting. With a world: which of its "
        "forgetting tasks, unset for all.",
    )
    evaluation_tasks: list[str] | None = setting(
        None,
        "Further tasks that every model is evaluated on: what should stay as it is. Task names or paths, with test "
        "rows.",
    )
    data_source: str = setting(
        "hub",
        "Where known tasks come from: 'hub', 'sample' (rows in the package), or a folder with one folder a task.",
    )
    prompt_style: PromptStyle = setting(
        "auto",
        "How the model is spoken to in learning, elicitation and evaluation. 'chat': a prompt of plain text is the "
        "user's turn and its completion the assistant's, through the tokenizer's chat template. 'plain': as they are. "
        "'auto': 'chat' where the tokenizer has a template. Rows that are conversations already stay so.",
    )
    system_prompt: str | None = setting(
        None,
        "System turn of every conversation that has none of its own. Unset: what the chat template puts there itself.",
    )
    learning_limit: int | None = setting(None, "Learning examples used, drawn by seed; unset: all.")
    validation_limit: int | None = setting(
        None,
        "Rows held out to watch training and for guard_fallback: those of validation.jsonl in the folder of "
        "learning_task, or else training rows that learning_limit leaves over. 0: none; unset: at most 200, and of "
        "what is left over a quarter of learning_limit. A world has its own.",
    )
    forgetting_limit: int | None = setting(None, "Prompts used of each forgetting task, drawn by seed; unset: all.")
    eval_limit: int | None = setting(
        None, "Test rows used of each task, drawn by seed, and documents of each of lm_eval_tasks; unset: all."
    )
    eval_max_new_tokens: int = setting(
        256,
        "Longest answer generated in the evaluation, in tokens. 0: nothing is generated, and likelihoods are all that "
        "is measured.",
    )
    # Not `eval_batch_size`, which TrainingArguments has as a property.
    evaluation_batch_size: int = setting(32, "Answers generated at once in the evaluation.")
    neutral_text: str | None = setting(
        None,
        "Text that no task is about, on which every model's bits per byte are measured: a file, or 'sample' for the "
        "8 KB in the package.",
    )
    lm_eval_tasks: list[str] | None = setting(
        None, "Tasks of lm-evaluation-harness for every model: names, YAML files or folders; needs the extra eval."
    )
    num_seeds: int = setting(1, "Training runs of each arm, with seed, seed + 1, ...")

    def __post_init__(self) -> None:
        self.world_options = mapping_of("world_options", self.world_options) or None
        self.world_difficulty()
        if self.world is None:
            for name in ("learning_task", "forgetting_tasks"):
                if not getattr(self, name):
                    raise ValueError(f"{name} is not set: name a task or a path (or set world)")
            if self.world_options or self.world_seed != 0:
                raise ValueError(
                    f"world_options={self.world_options!r} and world_seed={self.world_seed} are for a world, and world "
                    "is not set: name a world, or leave them out"
                )
        elif self.learning_task:
            raise ValueError(f"world={self.world!r} brings its own learning_task: remove learning_task")
        elif self.evaluation_tasks:
            raise ValueError(
                f"evaluation_tasks={self.evaluation_tasks} with world={self.world!r}, which has tasks of its own: "
                "remove evaluation_tasks"
            )
        if self.world_split not in ("test", "validation"):
            raise ValueError(f"world_options: split={self.world_split!r} is not valid: it must be test or validation")
        require_choice("prompt_style", self.prompt_style, get_args(PromptStyle))
        if self.system_prompt is not None and not self.system_prompt.strip():
            raise ValueError(f"system_prompt={self.system_prompt!r} is empty: write it, or leave it out")
        for name in ("learning_limit", "forgetting_limit", "eval_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not valid: it must be at least 1, or unset for all")
        for name in ("validation_limit", "eval_max_new_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is not valid: it must be 0 (none) or more")
        for name in ("evaluation_batch_size", "num_seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not valid: it must be at least 1")

    @property
    def generates(self) -> bool:
        """Whether the evaluation generates answers."""
        return self.eval_max_new_tokens > 0

    @property
    def _options(self) -> dict[str, Any]:
        return mapping_of("world_options", self.world_options)

    @property
    def world_split(self) -> str:
        """Held-out rows of a world that its learning task is evaluated on."""
        return self._options.get("split", "test")

    def world_difficulty(self) -> Difficulty:
        """The difficulty of the world. Raises `ValueError` naming the option that is unknown or out of range."""
        options = self._options
        for name in options:
            if name not in WORLD_OPTIONS:
                raise ValueError(f"world_options has {name!r}, which there is not: it takes {', '.join(WORLD_OPTIONS)}")
        options.pop("split", None)
        try:
            return Difficulty(**options)
        except ValueError as error:
            raise ValueError(f"world_options: {error}") from error


def other_methods(names: Sequence[str], lwf: LWFConfig) -> list[MethodName]:
    """The named methods that become arms beside the run's own: each once, and its own not a second time.

    Raises:
        ValueError: a name that is no method, or one that cannot stand beside the run's own.
    """
    found = [name for name in dict.fromkeys(names) if name != lwf.method]
    for name in found:
        if name == OWN:
            raise ValueError(
                f"compare_with {name!r}: in the result that name is the arm of the recipe's own method. Set "
                f"method={name!r}, and compare with another one: {', '.join(OTHERS)}"
            )
        if name not in OTHERS:
            raise ValueError(f"compare_with {name!r} is not valid: it must be one of {', '.join(OTHERS)}")
    return found  # type: ignore[return-value]
