"""The scored self-knowledge for the report: arrays for the charts, a bounded payload for the table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from markupsafe import Markup

from graceful_forgetting.report.formatting import script_json

REQUIRED_COLUMNS = (
    "prompt",
    "completion",
    "forgetting_task",
    "forgetting_confidence",
    "confidence_linear",
    "confidence_quadratic",
    "chosen",
)
LOSS_COLUMN = "loss"
# A report stays small enough to mail and to open at once.
MAX_ROWS = 10_000
MAX_PAYLOAD_BYTES = 4_500_000
_TEXT_LIMITS = (4000, 1000, 500, 250, 120, 60, 30)


@dataclass(frozen=True)
class ScoredSamples:
    """Scored samples: texts, index into `tasks`, scores (NaN = none), whether chosen for unlearning.

    `loss` is None where it was not recorded.
    """

    prompts: list[str]
    completions: list[str]
    tasks: list[str]
    task_index: np.ndarray
    confidence: np.ndarray
    linear: np.ndarray
    quadratic: np.ndarray
    loss: np.ndarray | None
    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: np.ndarray) -> "ScoredSamples":
        """The samples at these positions, in that order."""
        return ScoredSamples(
            prompts=[self.prompts[row] for row in rows],
            completions=[self.completions[row] for row in rows],
            tasks=self.tasks,
            task_index=self.task_index[rows],
            confidence=self.confidence[rows],
            linear=self.linear[rows],
            quadratic=self.quadratic[rows],
            loss=None if self.loss is None else self.loss[rows],
            chosen=self.chosen[rows],
        )


@dataclass(frozen=True)
class SampleTable:
    """What the table holds: its JSON, and how many rows of how many.

    `text_limit`: the number of characters after which texts are cut; None = nowhere.
    """

    payload: Markup
    rows: int
    total: int
    text_limit: int | None
    has_loss: bool


def read_samples(dataset: Dataset) -> ScoredSamples:
    """Read a scored data set. Raises `ValueError` naming the missing columns and those that are there."""
    missing = [name for name in REQUIRED_COLUMNS if name not in dataset.column_names]
    if missing:
        raise ValueError(
            f"samples lacks column(s) {', '.join(missing)}; it has {', '.join(dataset.column_names)}. "
            "Pass the scored self-knowledge with a boolean column 'chosen'"
        )
    tasks: dict[str, int] = {}
    task_index = [tasks.setdefault(str(task), len(tasks)) for task in dataset["forgetting_task"]]
    return ScoredSamples(
        prompts=[as_text(prompt) for prompt in dataset["prompt"]],
        completions=[as_text(completion) for completion in dataset["completion"]],
        tasks=list(tasks),
        task_index=np.asarray(task_index, dtype=np.int64),
        confidence=_numbers(dataset["forgetting_confidence"]),
        linear=_numbers(dataset["confidence_linear"]),
        quadratic=_numbers(dataset["confidence_quadratic"]),
        loss=_numbers(dataset[LOSS_COLUMN]) if LOSS_COLUMN in dataset.column_names else None,
        chosen=np.asarray(list(dataset["chosen"]), dtype=bool),
    )


def as_text(value: Any) -> str:
    """A prompt or completion as text: messages as "role: content" lines, everything else as it is."""
    if isinstance(value, list):
        return "\n".join(f"{message['role']}: {message['content']}" for message in value)
    return str(value)


def _numbers(column: Any) -> np.ndarray:
    return np.asarray([np.nan if value is None else value for value in column], dtype=np.float64)


def thin_out(samples: ScoredSamples, limit: int = MAX_ROWS) -> ScoredSamples:
    """All samples from highest to lowest confidence; above `limit`, evenly spaced ranks of them."""
    order = np.argsort(-samples.confidence, kind="stable")
    if len(order) > limit:
        order = order[np.linspace(0, len(order) - 1, limit).round().astype(np.int64)]
    return samples.take(order)


def sample_table(samples: ScoredSamples) -> SampleTable:
    """The table's rows as JSON of at most `MAX_PAYLOAD_BYTES`: texts are cut only where all do not fit."""
    kept = thin_out(samples)
    columns = {
        "task": kept.task_index.tolist(),
        "forgetting_confidence": _rounded(kept.confidence),
        "confidence_linear": _rounded(kept.linear),
        "confidence_quadratic": _rounded(kept.quadratic),
        "chosen": kept.chosen.astype(int).tolist(),
    }
    if kept.loss is not None:
        columns["loss"] = _rounded(kept.loss)
    longest = max((len(text) for text in [*kept.prompts, *kept.completions]), default=0)
    limits = [None, *(limit for limit in _TEXT_LIMITS if limit < longest)]
    for limit in limits:
        texts = {"prompt": _cut(kept.prompts, limit), "completion": _cut(kept.completions, limit)}
        payload = script_json({"tasks": kept.tasks, "columns": {**texts, **columns}})
        if len(payload.encode("utf-8", "replace")) <= MAX_PAYLOAD_BYTES:
            break
    return SampleTable(payload, len(kept), len(samples), limit, kept.loss is not None)


def _cut(texts: list[str], limit: int | None) -> list[str]:
    return texts if limit is None else [text if len(text) <= limit else text[:limit] + "…" for text in texts]


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]
