"""`graceful fields`: the fields of a recipe in groups, the common ones first, or those that have a word in them."""

import dataclasses
from collections.abc import Iterator, Sequence
from textwrap import fill

from trl import SFTConfig

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.lab.base_model import BaseModelConfig
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments

WIDTH = 100
COMMON = (
    "model_name_or_path", "learning_task", "forgetting_tasks", "output_dir", "method", "num_seeds", "learning_rate",
    "num_train_epochs", "max_steps", "per_device_train_batch_size", "max_length", "use_lora", "forget_fraction",
    "unlearn_every", "eval_max_new_tokens", "seed",
)  # fmt: skip
# Heading of a stage's fields, by their prefixes.
_STAGES = {
    "1 The model's own answers": ("elicitation_",),
    "2 What the learning task needs": ("reference_", "posterior_"),
    "3 Scores": ("confidence_",),
    "4 Choice": ("forget_",),
    "5 Unlearning": ("unlearn_", "per_device_unlearn_", "guard_"),
    "Baselines": ("baseline",),
}
Field = dataclasses.Field


def fields_text(words: Sequence[str]) -> str:
    """All fields in groups; with words, those that have all of them in their name or help, TRL's own among them.

    Raises:
        ValueError: no field has the words.
    """
    found = []
    for title, members in _groups():
        kept = [field for field in members if _matches(field, words)]
        if not kept:
            continue
        if title.startswith("TRL") and not words:
            names = fill(", ".join(field.name for field in kept), WIDTH, initial_indent="  ", subsequent_indent="  ")
            found.append(f"{title} (graceful fields NAME says what one is):\n{names}")
        else:
            found.append("\n".join([f"{title}:", *map(_described, kept)]))
    if not found:
        raise ValueError(f"no field has {' and '.join(map(repr, words))} in its name or its help: try another word")
    return "\n\n".join(found)


def _groups() -> Iterator[tuple[str, list[Field]]]:
    ours = {field.name: field for cls in (RunArguments, ModelArguments, LWFConfig) for field in _made(cls)}
    yield "The common ones", [ours.pop(name) for name in COMMON]
    for title, cls in (("The run", RunArguments), ("The model", ModelArguments)):
        yield title, [ours.pop(field.name) for field in _made(cls) if field.name in ours]
    for title, prefixes in _STAGES.items():
        yield title, [ours.pop(name) for name in list(ours) if name.startswith(prefixes)]
    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    yield "Other settings of ours", [ours.pop(name) for name in list(ours) if name not in inherited]
    yield "TRL's SFTConfig", list(ours.values())
    yield "graceful base build", _made(BaseModelConfig)


def _made(cls: type) -> list[Field]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _matches(field: Field, words: Sequence[str]) -> bool:
    text = f"{field.name} {field.metadata.get('help', '')}".lower()
    return all(word.lower() in text for word in words)


def _described(field: Field) -> str:
    default = "" if field.default is dataclasses.MISSING else f" [{field.default}]"
    text = " ".join(str(field.metadata.get("help", "")).split())
    return f"  {field.name}{default}\n" + fill(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
