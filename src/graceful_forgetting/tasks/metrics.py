"""Scoring generated answers against reference answers."""

from collections.abc import Sequence
from typing import Any

from graceful_forgetting.tasks.task import Task


def score_answers(task: Task, completions: Sequence[str], answers: Sequence[str]) -> dict[str, Any]:
    """Share of `completions` (generated text) whose parsed answer equals the reference in `answers`.

    `answers` is the column of that name that `load_task` makes. A completion without a readable answer counts
    as wrong. Returns `metric` (its name), `value` (share of right answers, 0 to 1), `num_items`,
    `num_correct`, `num_unparsable` and `correct` (one bool an item, in order).

    Raises `ValueError` if the lengths differ or there is nothing to score.
    """
    if len(completions) != len(answers):
        raise ValueError(
            f"completions has {len(completions)} items and answers {len(answers)}; each completion needs its answer"
        )
    if not completions:
        raise ValueError(f"completions is empty: there is nothing to score for task {task.name!r}")
    parsed = [task.parse_answer(completion) for completion in completions]
    correct = [found == answer for found, answer in zip(parsed, answers, strict=True)]
    return {
        "metric": task.metric,
        "value": sum(correct) / len(correct),
        "num_items": len(correct),
        "num_correct": sum(correct),
        "num_unparsable": sum(found is None for found in parsed),
        "correct": correct,
    }
