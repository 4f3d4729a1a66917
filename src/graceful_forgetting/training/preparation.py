"""What may be forgotten, as rows, and what the stages before training have made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets
from torch import Tensor, nn

from graceful_forgetting.config import ForgetAnswers
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.runtime.artifacts import read_json, write_json
from graceful_forgetting.runtime.store import read_rows
from graceful_forgetting.selection import LEAST_LEARNED, save_selected
from graceful_forgetting.training.stages import Stage

TASK_COLUMN = "forgetting_task"
SCORE_COLUMN = "forgetting_confidence"
# In the folder of a stage.
ROWS_FOLDER = "rows"
POSTERIOR_FOLDER = "posterior"
SELECTION_FILE = "selection.json"
LOG_FILE = "training_log.json"
# Share of the samples from which on a threshold tells them apart no longer.
MUCH = 0.8
# Columns that hold, or go with, an answer.
ANSWERED = ("completion", "messages", "conversations", "text", "input_ids")
_WITH_ANSWER = (*ANSWERED, "labels", "completion_mask", "assistant_masks")


@dataclass
class Preparation:
    """What the stages before training produced.

    Attributes:
        scored: the self-knowledge, one row a sample, with `forgetting_confidence` and its terms.
        selected: the rows of `scored` that are unlearned.
        audit: what was chosen and why, as JSON types.
        posterior: of the learning task; none when the forgetting set came scored or the scorer needs none.
        reference_log: training log of the reference run; empty when there was none.
        plain: trainable weights of plain fine-tuning by name, whole, for `guard_fallback`; none: nothing is compared.
        plain_log: training log of that run; empty when there was none.
    """

    scored: Dataset
    selected: Dataset
    audit: dict[str, Any]
    posterior: LearningPosterior | None = None
    reference_log: list[dict[str, float]] = field(default_factory=list)
    plain: Mapping[str, Tensor] | None = None
    plain_log: list[dict[str, float]] = field(default_factory=list)


def combine_forget_datasets(forget_dataset: Dataset | Mapping[str, Dataset], text_field: str = "text") -> Dataset:
    """One data set with the column `forgetting_task`; a dict names the tasks.

    Args:
        forget_dataset: what may be forgotten, as one data set or one a task.
        text_field: the column of plain text (TRL's `dataset_text_field`); it becomes `text`.

    Raises:
        TypeError: neither a `Dataset` nor a dict of them.
        ValueError: no rows, sets whose columns differ, or the splits of one set.
    """
    if isinstance(forget_dataset, DatasetDict):
        # As `load_dataset` gives it without `split`: its test rows would be forgotten too.
        raise ValueError(
            f"forget_dataset is a DatasetDict with the splits {', '.join(forget_dataset)}, which are no forgetting "
            "tasks: pass one of them, or load it with split='train'"
        )
    if isinstance(forget_dataset, Mapping):
        for name, part in forget_dataset.items():
            if not isinstance(part, Dataset):
                raise TypeError(f"forget_dataset[{name!r}] must be a datasets.Dataset, not {type(part).__name__}")
        named = [
            part.remove_columns([c for c in (TASK_COLUMN,) if c in part.column_names]).add_column(
                TASK_COLUMN, [name] * len(part)
            )
            for name, part in forget_dataset.items()
        ]
        columns = {name: sorted(part.column_names) for name, part in zip(forget_dataset, named, strict=True)}
        if len({tuple(names) for names in columns.values()}) > 1:
            raise ValueError(f"the parts of forget_dataset must have the same columns, but have {columns}")
        forget_dataset = concatenate_datasets(named) if named else Dataset.from_dict({})
    if not isinstance(forget_dataset, Dataset):
        raise TypeError(
            f"forget_dataset must be a datasets.Dataset or a dict of them by task, not {type(forget_dataset).__name__}"
        )
    if len(forget_dataset) == 0:
        raise ValueError("forget_dataset has no rows: give at least one prompt, or set unlearn_every=0")
    present = set(forget_dataset.column_names)
    if text_field in present and not present & {"prompt", *ANSWERED}:
        forget_dataset = forget_dataset.rename_column(text_field, "text")
    if TASK_COLUMN not in forget_dataset.column_names:
        forget_dataset = forget_dataset.add_column(TASK_COLUMN, ["forget"] * len(forget_dataset))
    return forget_dataset


def nothing_selected(audit: Mapping[str, Any]) -> str:
    """What to tell a user of whose samples none is unlearned; `audit` is that of the selection."""
    if "trials" in audit:
        return "No trial run that unlearns has a lower held-out loss than plain fine-tuning: nothing is unlearned"
    learned = audit["settings"]["learned"]
    remedy = ""
    if learned is not None and learned < LEAST_LEARNED:
        remedy = (
            f". The reference run has removed {max(learned, 0):.1%} of the learning task's loss, too little to "
            "tell by: raise learning_rate or reference_fraction"
        )
    return (
        f"No score reaches {_limit(audit)} (the highest is {audit['score_quantiles']['1.0']:.3g}): nothing is "
        f"unlearned, and training is plain fine-tuning{remedy}"
    )


def much_selected(audit: Mapping[str, Any]) -> str | None:
    """What to tell a user of whose samples a threshold leaves next to none; none where it leaves more.

    Args:
        audit: that of the selection.
    """
    if audit["threshold"] is None or audit["chosen"] < MUCH * audit["eligible"]:
        return None
    return (
        f"{audit['chosen']} of {audit['eligible']} scores reach {_limit(audit)} (the median is "
        f"{audit['score_quantiles']['0.5']:.3g}): either all of forget_dataset is in the way of the learning task, or "
        "learning disturbs whatever the model knows. Add prompts that have nothing to do with the learning task: if "
        "they are chosen as well, lower learning_rate or reference_fraction"
    )


def selection_remark(audit: Mapping[str, Any]) -> str:
    """How much a selection chooses, and what is odd about it; `audit` is that of the selection."""
    if audit["chosen"] == 0:
        return nothing_selected(audit)
    reached = "" if audit["threshold"] is None else f": their scores reach {_limit(audit)}"
    return much_selected(audit) or f"{audit['chosen']} of {audit['eligible']} samples are unlearned{reached}"


def _limit(audit: Mapping[str, Any]) -> str:
    """The threshold of a selection in words."""
    settings, limit = audit["settings"], audit["threshold"]
    if settings["learned"] is None or limit == settings["threshold"]:
        return f"forget_threshold={limit:g}"
    return (
        f"{limit:.3g}, forget_threshold={settings['threshold']:g} times the share of the learning "
        f"task's loss that the reference run has removed ({limit / settings['threshold']:.0%})"
    )


def needs_elicitation(forget_dataset: Dataset, answers: ForgetAnswers | None = None) -> bool:
    """Whether the model answers the prompts itself, by the setting `forget_answers`; unset: if there are no answers."""
    if answers is not None:
        return answers == "self_generated"
    return not set(ANSWERED) & set(forget_dataset.column_names)


def without_answers(rows: Dataset) -> Dataset:
    """`rows` without what they carry of answers, for the model to answer them itself."""
    return rows.remove_columns([name for name in _WITH_ANSWER if name in rows.column_names])


def write_selection(folder: Path, selected: Dataset, audit: Mapping[str, Any]) -> None:
    """Write what is unlearned, and why, as `read_preparation` reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_selected(selected, folder / ROWS_FOLDER)
    write_json(folder / SELECTION_FILE, audit)


def read_preparation(stages: Mapping[str, Stage]) -> Preparation | None:
    """What lies in the folders of `stages`; none where there are none.

    Args:
        stages: of `scores`, `selection`, `posterior` and `reference` those that there are, by name.

    Raises:
        ValueError: the posterior is damaged.
    """
    if not stages:
        return None
    nothing = Dataset.from_dict({})
    posterior, reference = stages.get("posterior"), stages.get("reference")
    return Preparation(
        scored=read_rows(stages["scores"].path / ROWS_FOLDER) if "scores" in stages else nothing,
        selected=read_rows(stages["selection"].path / ROWS_FOLDER) if "selection" in stages else nothing,
        audit=read_json(stages["selection"].path / SELECTION_FILE) if "selection" in stages else {},
        posterior=None if posterior is None else LearningPosterior.from_pretrained(posterior.path / POSTERIOR_FOLDER),
        reference_log=[] if reference is None else read_json(reference.path / LOG_FILE),
    )


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name: copies on the CPU."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}
