"""What a task is: where its rows are, how a row becomes prompt and completion, how an answer is read back.

It knows nothing about files or the hub (`loading.py`) and nothing about models.
"""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Row = Mapping[str, Any]
Split = Literal["train", "test"]
TaskMetric = Literal["accuracy", "exact_match", "f1", "chrf"]

SPLITS: tuple[Split, ...] = ("train", "test")
VALIDATION = "validation"
"""A third split, which the user's own folder may have: rows to choose settings by."""
KINDS = ("conflicting", "helpful", "neutral")
"""What forgetting a row does to the learning task, where somebody knows it. The method never reads it."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 10
_LONGEST_SHOWN = 200


def shown(value: Any) -> str:
    """`value` for a message, cut where it is long."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def text_of(row: Row, column: str) -> str:
    """The text in `column`; raises `ValueError` if it holds anything else."""
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"{column}={shown(value)} is not text")
    return value


def first_line(text: str) -> str | None:
    """The first line of `text` that is not blank, without white space around it; none if there is none.

    What a base model writes after a one-line answer is the next question in the form of the prompt.
    """
    stripped = text.strip()
    return stripped.splitlines()[0].strip() if stripped else None


@dataclass(frozen=True)
class Task:
    """One question-answering task.

    A task comes from the hub (`hub_id`) or from the user's own files (`path`); exactly one of the two is set.
    """

    name: str
    description: str
    licence: str
    columns: tuple[str, ...]
    """Columns that every row of the source must have."""
    format_row: Callable[[Row], dict[str, Any]]
    """Row -> {"prompt", "completion", "answer"}; for multiple choice "choices", the completions of all options, in
    order; where they are known "old_answer", the completion of older knowledge, and "kind", one of `KINDS`. Raises
    `ValueError` on a row that cannot be used.
    """
    parse_answer: Callable[[str], str | None]
    """Generated text -> answer in the form of the `answer` column, or none if it holds no answer."""
    metric: TaskMetric
    """How generated answers are scored (`metrics.py`): 'accuracy' for multiple choice, 'exact_match', 'f1', 'chrf'."""
    hub_id: str | None = None
    hub_configs: tuple[str, ...] = ()
    """Configurations on the hub, pooled in this order; none = the data set's only one."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """'train' and 'test' -> the split's name on the hub; several are joined by '+'."""
    path: Path | None = None
    """The user's JSONL file, or folder with train.jsonl and test.jsonl."""
    folder: str = ""
    """Folder of the task in a folder of tasks (`data_source`), and of its vendored rows; by default its name with
    ':' as folder separator.
    """
    divide: Callable[[Row], Split] | None = None
    """Which split a row of the hub belongs to, where the hub has no division of its own; rows in files are divided
    already.
    """
    row_filter: Callable[[Row], bool] | None = None
    """Which rows of the source belong to the task; none = all."""
    id_column: str | None = None
    """Column that identifies a row; none = its position in the source split."""
    definition: str = ""
    """Content hash of the file that describes the task, where one does: what it changes is evaluated again."""
    system_prompt: str | None = None
    """The system turn of its conversations that have none of their own, in place of the recipe's."""
    language: str = "en"
    """Of the answers; F1 leaves out the articles of English and German, and splits Chinese into characters."""

    def __post_init__(self) -> None:
        if (self.hub_id is None) == (self.path is None):
            raise ValueError(f"task {self.name!r} needs either hub_id or path, and not both")
        if self.hub_id is not None and set(self.splits) != set(SPLITS):
            raise ValueError(f"task {self.name!r}: splits={self.splits!r} must name {' and '.join(SPLITS)}")
        if not self.folder:
            object.__setattr__(self, "folder", self.name.replace(":", "/"))
