"""What a task is: where its rows are, how a row becomes prompt and completion, how an answer is read back.

It knows nothing about files or the hub (`loading.py`) and nothing about models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Row = Mapping[str, Any]
Metric = Literal["accuracy", "exact_match"]

SPLITS = ("train", "test")


def text_of(row: Row, column: str) -> str:
    """The text in `column`; raises `ValueError` if it holds anything else."""
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"{column}={value!r} is not text")
    return value


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
    """Row -> {"prompt", "completion", "answer"}; raises `ValueError` on a row that cannot be used."""
    parse_answer: Callable[[str], str | None]
    """Generated text -> answer in the form of the `answer` column, or none if it holds no answer."""
    metric: Metric
    """Name of the share of right answers: 'accuracy' for multiple choice, 'exact_match' otherwise."""
    hub_id: str | None = None
    hub_config: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    """'train' and 'test' -> the split's name on the hub."""
    path: Path | None = None
    """The user's JSONL file, or folder with train.jsonl and test.jsonl."""
    row_filter: Callable[[Row], bool] | None = None
    """Which rows of the source belong to the task; none = all."""
    id_column: str | None = None
    """Column that identifies a row; none = its position in the source split."""
    choices: tuple[str, ...] = ()
    """The possible answers of a multiple-choice task."""

    def __post_init__(self) -> None:
        if (self.hub_id is None) == (self.path is None):
            raise ValueError(f"task {self.name!r} needs either hub_id or path, and not both")
        if self.hub_id is not None and set(self.splits) != set(SPLITS):
            raise ValueError(f"task {self.name!r}: splits={self.splits!r} must name {' and '.join(SPLITS)}")
