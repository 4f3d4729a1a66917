"""The known tasks, and how a task name or a path in a recipe is understood."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill

from graceful_forgetting.runtime.nearest import did_you_mean
from graceful_forgetting.tasks import medmcqa, mmlu, xquad
from graceful_forgetting.tasks.arc import ARC_EASY
from graceful_forgetting.tasks.boolq import BOOLQ_CLOSED_BOOK
from graceful_forgetting.tasks.file_task import file_task
from graceful_forgetting.tasks.gsm8k import GSM8K
from graceful_forgetting.tasks.local import local_task
from graceful_forgetting.tasks.multiple_choice import cloze_task
from graceful_forgetting.tasks.openbookqa import OPENBOOKQA
from graceful_forgetting.tasks.qasc import QASC
from graceful_forgetting.tasks.sst5 import SST5
from graceful_forgetting.tasks.task import Task
from graceful_forgetting.tasks.translation import TATOEBA_DE_EN

SAMPLES = Path(__file__).parent / "samples"
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        GSM8K,
        QASC,
        SST5,
        medmcqa.DENTAL,
        mmlu.PSYCHOL,
        TATOEBA_DE_EN,
        *map(xquad.xquad_task, xquad.LANGUAGES),
        ARC_EASY,
        OPENBOOKQA,
        BOOLQ_CLOSED_BOOK,
        medmcqa.MEDMCQA,
    )
}


@dataclass(frozen=True)
class Family:
    """Tasks of one data set by subject, named `<family>:<subject>`."""

    subjects: tuple[str, ...]
    make: Callable[[str], Task]


FAMILIES: dict[str, Family] = {
    "mmlu": Family(mmlu.SUBJECTS, mmlu.mmlu_task),
    "medmcqa": Family(tuple(medmcqa.SUBJECT_KEYS), medmcqa.medmcqa_task),
}


LETTERED = (QASC, medmcqa.DENTAL, mmlu.PSYCHOL, ARC_EASY, OPENBOOKQA, medmcqa.MEDMCQA)
"""Known tasks whose prompts show lettered options, as those of all families do: these have a cloze form."""
_CLOZE = "cloze"
_CLOZE_DESCRIPTION = (
    "a multiple-choice task without its options in the prompt, such as cloze:qasc or cloze:mmlu:anatomy"
)


def resolve_task(name_or_path: str | Path) -> Task:
    """A task by name or path:

    - `gsm8k`, `mmlu:anatomy`: a known task;
    - `cloze:qasc`, `cloze:mmlu:anatomy`: one with lettered options in cloze form (`cloze_task`);
    - `dental@data/dental`: a known task, its rows from that JSONL file or folder, in the hub's fields;
    - `my_task.yaml`: a task described in YAML (`file_task`);
    - any other path: the user's own data (`local_task`).

    A known name wins over a file of the same name; write './gsm8k' for the file. Raises `ValueError` for a
    name that is neither known nor a path, with the nearest known names, and `FileNotFoundError` for a path
    that is not there.
    """
    name = str(name_or_path)
    preset, at, folder = name.partition("@")
    known = _known_task(preset)
    if known is not None and not at:
        return known
    if known is not None:
        path = Path(folder).expanduser()
        if not folder or not path.exists():
            raise FileNotFoundError(f"task {name!r}: there is no file or folder {folder!r}; write <task>@<path>")
        return replace(known, hub_id=None, path=path)
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return file_task(path)
    if path.exists() or isinstance(name_or_path, Path) or len(path.parts) > 1 or path.suffix:
        return local_task(path)
    raise ValueError(
        f"unknown task {name!r}: {did_you_mean(name.lower(), TASKS, most=3)}Known tasks: {', '.join(sorted(TASKS))}, "
        f"{', '.join(f'{family}:<subject>' for family in FAMILIES)}, {_CLOZE}:<task>; "
        "or give the path of a JSONL file, of a folder with train.jsonl and test.jsonl, or of a YAML task"
    )


def _known_task(name: str) -> Task | None:
    if name in TASKS:
        return TASKS[name]
    family, colon, subject = name.partition(":")
    if colon and family == _CLOZE:
        return cloze_task(_lettered_task(subject))
    if not colon or family not in FAMILIES:
        return None
    if subject not in FAMILIES[family].subjects:
        raise ValueError(
            f"unknown task {name!r}: {did_you_mean(subject.lower(), FAMILIES[family].subjects, most=3)}"
            f"Subjects of {family}: {', '.join(FAMILIES[family].subjects)}"
        )
    return FAMILIES[family].make(subject)


def _lettered_task(name: str) -> Task:
    task = None if name.startswith(f"{_CLOZE}:") else _known_task(name)
    if task is None or (task not in LETTERED and name.partition(":")[0] not in FAMILIES):
        names = [known.name for known in LETTERED]
        families = ", ".join(f"{_CLOZE}:{family}:<subject>" for family in FAMILIES)
        raise ValueError(
            f"unknown task '{_CLOZE}:{name}': {did_you_mean(name.lower(), names, most=3)}Those in cloze form are "
            f"{', '.join(f'{_CLOZE}:{known}' for known in names)}, {families}"
        )
    return task


def task_table() -> str:
    """Every known task as a Markdown table; `docs/tasks.md` has it."""
    lines = [
        "| task | what it asks | metric | licence | data set on the hub | vendored rows |",
        "|---|---|---|---|---|---|",
    ]
    for task in TASKS.values():
        hub = " ".join((f"`{task.hub_id}`", *task.hub_configs))
        vendored = "yes" if (SAMPLES / task.folder).is_dir() else "no"
        lines.append(f"| `{task.name}` | {task.description} | {task.metric} | {task.licence} | {hub} | {vendored} |")
    for name, family in FAMILIES.items():
        example = family.make(family.subjects[0])
        lines.append(
            f"| `{name}:<subject>` | one of {len(family.subjects)} subjects, such as `{example.name}` "
            f"| {example.metric} | {example.licence} | `{example.hub_id}` | no |"
        )
    example = cloze_task(QASC)
    lines.append(
        f"| `{_CLOZE}:<task>` | {_CLOZE_DESCRIPTION} | {example.metric} | of the task | of the task | as the task |"
    )
    return "\n".join(lines)


def task_list(width: int = 100) -> str:
    """Every known task as text of at most `width` columns: name, metric, what it asks, and where its rows come from."""
    entries = []
    for task in TASKS.values():
        source = f"{' '.join((task.hub_id or '', *task.hub_configs))}; {task.licence}"
        vendored = "; sample rows in the package" if (SAMPLES / task.folder).is_dir() else ""
        entries.append((task.name, task.metric, task.description, source + vendored))
    for name, family in FAMILIES.items():
        example = family.make(family.subjects[0])
        what = f"one of {len(family.subjects)} subjects, such as {example.name}"
        entries.append((f"{name}:<subject>", example.metric, what, f"{example.hub_id}; {example.licence}"))
    entries.append((f"{_CLOZE}:<task>", cloze_task(QASC).metric, _CLOZE_DESCRIPTION, "rows and licence of the task"))
    names, metrics = (max(len(entry[column]) for entry in entries) for column in (0, 1))
    indent = " " * (names + metrics + 4)
    lines = []
    for name, metric, what, source in entries:
        lines.append(
            fill(what, width, initial_indent=f"{name:{names}}  {metric:{metrics}}  ", subsequent_indent=indent)
        )
        lines.append(fill(source, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False))
    return "\n".join(lines)
