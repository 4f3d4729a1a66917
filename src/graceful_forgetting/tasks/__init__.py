"""Tasks: public question-answering data and the user's own, as prompt, completion and answer.

A new task is one new file and one entry in `catalogue.py`.
"""

from graceful_forgetting.tasks.catalogue import TASKS, resolve_task
from graceful_forgetting.tasks.loading import available_splits, load_local, load_task
from graceful_forgetting.tasks.local import local_task
from graceful_forgetting.tasks.metrics import score_answers
from graceful_forgetting.tasks.task import Task

__all__ = [
    "TASKS",
    "Task",
    "available_splits",
    "load_local",
    "load_task",
    "local_task",
    "resolve_task",
    "score_answers",
]
