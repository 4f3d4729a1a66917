"""Question rows in the form of the tasks' prompts, without those that repeat a test row."""

import random
from dataclasses import dataclass
from typing import Any

from graceful_forgetting.lab.base_model.overlap import HeldOutRows
from graceful_forgetting.tasks import available_splits, load_task


@dataclass(frozen=True)
class Questions:
    """Rows to train on.

    Attributes:
        texts: prompt and completion, joined, of all tasks in a seeded order.
        held_out: the test rows of the tasks.
        counts: by task: rows `used`, and rows `left_out` because they share words with a test row.
    """

    texts: list[str]
    held_out: HeldOutRows
    counts: dict[str, dict[str, int]]


def load_questions(names: list[str], seed: int) -> Questions:
    """The train rows of tasks, shuffled together.

    Args:
        names: `<task>@<file or folder>`, `<task>` (from the hub), or the path of JSONL data of one's own.
        seed: of the order.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as `load_task`, for a task that cannot be read.
    """
    tests: list[str] = []
    for name in names:
        task, source = _parts(name)
        if "test" in available_splits(task, source):
            tests += _texts(name, "test")
    held_out = HeldOutRows(tests)
    texts: list[str] = []
    counts = {}
    for name in names:
        rows = _texts(name, "train")
        used = [text for text in rows if not held_out.shared_with(text)]
        counts[name] = {"used": len(used), "left_out": len(rows) - len(used)}
        texts += used
    random.Random(seed).shuffle(texts)
    return Questions(texts, held_out, counts)


def _parts(name: str) -> tuple[str, str]:
    task, at, source = name.partition("@")
    return task, source if at else "hub"


def _texts(name: str, split: str) -> list[str]:
    task, source = _parts(name)
    rows: Any = load_task(task, split, source=source)
    return [row["prompt"] + row["completion"] for row in rows]
