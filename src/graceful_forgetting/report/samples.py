"""The scored self-knowledge for the report: arrays for the charts, columns for the table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graceful_forgetting.report.table import MAX_ROWS, Head, SampleTable, fit_table, rounded

if TYPE_CHECKING:
    from datasets import Dataset

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
# Of more samples than a table holds, so many of the highest and of the lowest scores are all in it.
ENDS = MAX_ROWS // 4


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


def read_samples(dataset: "Dataset") -> ScoredSamples:
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


def thin_out(samples: ScoredSamples, limit: int = MAX_ROWS, ends: int = 0) -> ScoredSamples:
    """All samples from highest to lowest confidence; above `limit`, the first and last `ends`, and evenly spaced ranks
    between them."""
    order = np.argsort(-samples.confidence, kind="stable")
    if len(order) > limit:
        between = np.linspace(ends, len(order) - 1 - ends, limit - 2 * ends).round().astype(np.int64)
        order = order[np.concatenate([np.arange(ends), between, np.arange(len(order) - ends, len(order))])]
    return samples.take(order)


def kinds_at_the_top(samples: ScoredSamples, kinds: Mapping[str, str]) -> dict[str, int]:
    """How many of the 25 highest scores are of each known kind, in falling number."""
    top = samples.task_index[np.argsort(-samples.confidence, kind="stable")[:25]]
    return dict(Counter(kinds.get(samples.tasks[task], "not known") for task in top.tolist()).most_common())


def sample_table(
    samples: ScoredSamples, score: str = "Forgetting confidence (nats)", kinds: Mapping[str, str] | None = None
) -> tuple[SampleTable, list[Head]]:
    """The table of the samples, above `MAX_ROWS` of the ends of their ranking and some between, and its columns.

    Args:
        score: heading of the scores, with their unit.
        kinds: task -> what it is known to be to the learning task, where that is known.
    """
    kept = thin_out(samples, ends=ENDS)
    heads = [
        Head("prompt", "Prompt", "text", "text"),
        Head("completion", "Completion", "text", "text"),
        Head("task", "Task", "label", "task", filter="all tasks"),
        Head("forgetting_confidence", score, "num", "num"),
        Head("chosen", "Chosen", "label", "flag", filter="chosen or not"),
    ]
    columns: dict[str, list[Any]] = {
        "task": kept.task_index.tolist(),
        "forgetting_confidence": rounded(kept.confidence),
        "chosen": kept.chosen.astype(int).tolist(),
    }
    # Other scores than the formula's have no terms.
    terms = {"linear": ("Linear term", kept.linear), "quadratic": ("Quadratic term", kept.quadratic)}
    for name, (title, values) in terms.items():
        if np.isfinite(values).any():
            heads.insert(-1, Head(f"confidence_{name}", title, "num", "num"))
            columns[f"confidence_{name}"] = rounded(values)
    if kept.loss is not None:
        heads.insert(-1, Head("loss", "Loss (nats per token)", "num", "num"))
        columns["loss"] = rounded(kept.loss)
    labels: dict[str, list[str]] = {"task": kept.tasks, "chosen": ["no", "yes"]}
    if kinds:
        labels["kind"] = list(dict.fromkeys(kinds.get(task, "not known") for task in kept.tasks))
        heads.insert(3, Head("kind", "Known to be", "label", "task", filter="any"))
        by_task = [labels["kind"].index(kinds.get(task, "not known")) for task in kept.tasks]
        columns["kind"] = [by_task[task] for task in columns["task"]]
    texts = {"prompt": kept.prompts, "completion": kept.completions}
    return fit_table(texts, columns, labels, len(samples)), heads
