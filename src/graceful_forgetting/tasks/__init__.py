"""Tasks: public question-answering data and the user's own, as prompt, completion and answer.

A new task is one new file and one entry in `catalogue.py`, or a YAML file (`file_task.py`). Imports `runtime` alone.
"""

from graceful_forgetting.tasks.catalogue import TASKS, resolve_task
from graceful_forgetting.tasks.export import export_tasks
from graceful_forgetting.tasks.file_task import file_task
from graceful_forgetting.tasks.loading import (
    available_splits,
    load_draws,
    load_local,
    load_task,
    row_place,
    task_source,
)
from graceful_forgetting.tasks.local import local_task
from graceful_forgetting.tasks.metrics import AnswerScores, read_answer, require_metric, score_answers
from graceful_forgetting.tasks.task import Task

__all__ = [
    "TASKS",
    "AnswerScores",
    "Task",
    "available_splits",
    "export_tasks",
    "file_task",
    "load_draws",
    "load_local",
    "load_task",
    "local_task",
    "read_answer",
    "require_metric",
    "resolve_task",
    "row_place",
    "score_answers",
    "task_source",
]
