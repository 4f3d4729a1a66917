"""The known tasks, and how a task name or a path in a recipe is understood."""

from difflib import get_close_matches
from pathlib import Path

from graceful_forgetting.tasks.gsm8k import GSM8K
from graceful_forgetting.tasks.local import local_task
from graceful_forgetting.tasks.medmcqa import DENTAL
from graceful_forgetting.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (GSM8K, DENTAL)}


def resolve_task(name_or_path: str | Path) -> Task:
    """The known task of that name, else the user's own data at that path (`local_task`).

    A known name wins over a file of the same name; write './gsm8k' for the file. Raises `ValueError` for a
    name that is neither known nor a path, with the nearest known names, and `FileNotFoundError` for a path
    that is not there.
    """
    name = str(name_or_path)
    if name in TASKS:
        return TASKS[name]
    path = Path(name).expanduser()
    if path.exists() or isinstance(name_or_path, Path) or len(path.parts) > 1 or path.suffix:
        return local_task(path)
    near = get_close_matches(name.lower(), TASKS, n=3, cutoff=0.4)
    suggestion = f"did you mean {' or '.join(repr(other) for other in near)}? " if near else ""
    raise ValueError(
        f"unknown task {name!r}: {suggestion}Known tasks: {', '.join(sorted(TASKS))}; "
        "or give the path of a JSONL file or of a folder with train.jsonl and test.jsonl"
    )
