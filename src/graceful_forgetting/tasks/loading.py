"""Loading a task: from the hub, the vendored samples or files to prompt, completion and answer."""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from graceful_forgetting.runtime.progress import DELAY, progress_bar
from graceful_forgetting.tasks.catalogue import SAMPLES, resolve_task
from graceful_forgetting.tasks.jsonl import files_of_split, read_jsonl, split_files
from graceful_forgetting.tasks.local import local_task
from graceful_forgetting.tasks.task import SPLITS, VALIDATION, Row, Task, shown

_TRUE = {"1", "ON", "YES", "TRUE"}

# Where a row stands (for messages), its identifier, the row itself.
_Located = tuple[str, str, Row]


def load_task(
    task: str | Path | Task,
    split: str = "train",
    *,
    source: str | Path = "hub",
    limit: int | None = None,
    seed: int = 42,
    require_completion: bool = True,
) -> Dataset:
    """One split of a task: columns `prompt`, `completion`, `answer`, `row` (the row's identifier, text), and for
    multiple choice `choices` (the completions of all options).

    Args:
        task: a known task's name, the path of the user's own data or of a YAML task, or a `Task`.
        split: "train" or "test", or of the user's own folder "validation".
        source: for a known task, "hub", "sample" (the rows vendored in the package), or the path of a JSONL
            file or of a folder with train.jsonl and test.jsonl in the hub's fields. A task that is itself a
            path has no other source.
        limit: at most so many rows, drawn without replacement; a smaller draw with the same seed is part of a
            larger one. Rows keep their order.
        seed: seed of that draw.
        require_completion: refuse the user's own data where it has prompts only; otherwise such data comes
            without `completion` and `answer`.

    Raises:
        ValueError: unknown task or split, `limit` below 1, wrong columns, a row that cannot be read or used,
            no rows.
        FileNotFoundError: a path is not there, or does not have the split.
        ConnectionError: the hub cannot be reached.
    """
    return load_draws(task, split, [limit], source=source, seed=seed, require_completion=require_completion)[0]


def load_draws(
    task: str | Path | Task,
    split: str,
    limits: Sequence[int | None],
    *,
    source: str | Path = "hub",
    seed: int = 42,
    require_completion: bool = True,
) -> list[Dataset]:
    """`load_task` with each of these limits, the last of them the largest, read once."""
    if not isinstance(task, Task):
        task = resolve_task(task)
    if split not in SPLITS and not (split == VALIDATION and task.path is not None):
        own = f"; a folder of one's own may have {VALIDATION}" if split == VALIDATION else ""
        raise ValueError(f"split={split!r} is not valid: it must be {' or '.join(SPLITS)}{own}")
    for limit in limits:
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit} is not valid: it must be at least 1, or none for every row")
    description = f"reading {task.name}, {split}"
    located = list(progress_bar(description, "rows", iterable=_located_rows(task, split, source), delay=DELAY))
    if not located:
        raise ValueError(f"no row of {_describe(task, split, source)} belongs to task {task.name!r}")
    # All of the user's own rows are checked, also those that a limit leaves out.
    read = range(len(located)) if task.path is not None else _drawn(len(located), limits[-1], seed)
    located_read = [located[index] for index in read]
    with progress_bar(f"checking {task.name}, {split}", "rows", len(located_read), delay=DELAY) as bar:
        rows = []
        for where, identifier, row in located_read:
            rows.append(_formatted(task, where, identifier, row))
            bar.update()
        # Nothing of the rest can be counted.
        bar.set_description(f"arranging {task.name}, {split}", refresh=bar.format_dict["elapsed"] > DELAY)
        _check_one_form(rows, located_read, require_completion, split)
        if task.path is not None:
            _check_other_split(task, split, rows[0]["prompt"], located_read[0][0])
        by_index = dict(zip(read, rows, strict=True))
        return [Dataset.from_list([by_index[index] for index in _drawn(len(located), limit, seed)]) for limit in limits]


def row_place(task: Task, split: str, source: str | Path, row: str) -> str:
    """Where the row with this identifier (column `row` of `load_task`) stands: file and line, or data set and number.

    Reads the data again: for messages.
    """
    located = (where for where, identifier, _ in _located_rows(task, split, source) if identifier == row)
    return next(located, f"{_describe(task, split, source)} row {row}")


def task_source(task: Task, data_source: str) -> str | Path:
    """Where `load_task` finds the task for a recipe's `data_source`: 'hub', 'sample', or a folder with one folder a
    task. A task with files of its own needs none.

    Raises `FileNotFoundError` where `data_source` is neither of these words nor a folder.
    """
    if task.path is not None or data_source in ("hub", "sample"):
        return data_source
    folder = Path(data_source).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data_source={data_source!r} is not a folder: use 'hub', 'sample', or a folder with one folder a task"
        )
    return folder / task.folder


def load_local(
    path: str | Path,
    split: str = "train",
    *,
    limit: int | None = None,
    seed: int = 42,
    require_completion: bool = True,
) -> Dataset:
    """`load_task` of the user's own data at `path`, also where a known task has that name."""
    return load_task(local_task(path), split, limit=limit, seed=seed, require_completion=require_completion)


def available_splits(task: str | Path | Task, source: str | Path = "hub") -> tuple[str, ...]:
    """Which of "train", "test" and "validation" `load_task` can serve; looks at files, never at the network.

    Raises `ValueError` for an unknown task, `FileNotFoundError` for a path that is not there.
    """
    if not isinstance(task, Task):
        task = resolve_task(task)
    folder = _folder(task, source)
    if folder is None:
        return SPLITS
    found = split_files(folder, _source_splits(task))
    return tuple(split for split in (*SPLITS, VALIDATION) if split in found)


def _folder(task: Task, source: str | Path) -> Path | None:
    """Where the task's files are; none if they are on the hub."""
    if task.path is not None:
        return task.path
    if source == "hub":
        return None
    if source == "sample":
        folder = SAMPLES / task.folder
        if not folder.is_dir():
            raise FileNotFoundError(
                f"task {task.name!r} has no vendored rows, source='sample' cannot be used (licence: {task.licence}); "
                "use source='hub', or source=<path of a JSONL file or folder>"
            )
        return folder
    return Path(source).expanduser()


def _source_splits(task: Task) -> Mapping[str, str] | None:
    # Where the division is ours, the source's own splits are none: they would put the same rows on both sides.
    return task.splits if task.divide is None else None


def _describe(task: Task, split: str, source: str | Path) -> str:
    folder = _folder(task, source)
    if folder is None:
        return f"{task.hub_id} [{task.splits[split]}]"
    return ", ".join(str(file) for file in files_of_split(folder, split, _source_splits(task)))


def _located_rows(task: Task, split: str, source: str | Path) -> Iterator[_Located]:
    folder = _folder(task, source)
    rows = _hub_rows(task, split) if folder is None else _file_rows(task, _files(task, folder, split, source))
    for position, (where, row) in enumerate(rows):
        if task.row_filter is None or task.row_filter(row):
            identifier = str(position if task.id_column is None else row[task.id_column])
            yield where, identifier, row


def _files(task: Task, folder: Path, split: str, source: str | Path) -> list[Path]:
    try:
        return files_of_split(folder, split, _source_splits(task))
    except FileNotFoundError as error:
        if task.path is not None:
            raise
        raise FileNotFoundError(f"task {task.name!r}, source={str(source)!r}: {error}") from error


def _file_rows(task: Task, paths: Sequence[Path]) -> Iterator[tuple[str, Row]]:
    for path in paths:
        for number, row in read_jsonl(path):
            where = f"{path}:{number}"
            _check_columns(task, where, set(row))
            yield where, row


def _hub_rows(task: Task, split: str) -> Iterator[tuple[str, Row]]:
    for config in task.hub_configs or (None,):
        where = " ".join(filter(None, (task.hub_id, config, f"[{task.splits[split]}]")))
        try:
            dataset = load_dataset(task.hub_id, config, split=task.splits[split])
        # Everything that datasets raises for an unreachable or missing repository is an OSError.
        except OSError as error:
            offline = os.environ.get("HF_HUB_OFFLINE", "")
            reason = f" (HF_HUB_OFFLINE={offline} is set)" if offline.upper() in _TRUE else ""
            raise ConnectionError(
                f"task {task.name!r}: could not load {task.hub_id} from the hub{reason}: {error}. "
                f"Use source='sample' (a few vendored rows) or source=<path of a JSONL file or folder>"
            ) from error
        _check_columns(task, where, set(dataset.column_names))
        for position, row in enumerate(dataset):
            if task.divide is None or task.divide(row) == split:
                yield f"{where} row {position}", row


def _check_columns(task: Task, where: str, present: set[str]) -> None:
    missing = [column for column in task.columns if column not in present]
    if missing:
        raise ValueError(
            f"{where}: task {task.name!r} needs columns {', '.join(task.columns)}; "
            f"missing: {', '.join(missing)}; present: {', '.join(sorted(present)) or 'none'}"
        )


def _formatted(task: Task, where: str, identifier: str, row: Row) -> dict[str, Any]:
    try:
        return {**task.format_row(row), "row": identifier}
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _drawn(number: int, limit: int | None, seed: int) -> Sequence[int]:
    """Positions of `limit` of `number` rows, in order."""
    if limit is None or limit >= number:
        return range(number)
    order = list(range(number))
    random.Random(seed).shuffle(order)
    return sorted(order[:limit])


def _check_one_form(
    rows: list[dict[str, Any]], located: Sequence[_Located], require_completion: bool, split: str
) -> None:
    """Every row has the columns and the kind of prompt of the first: Arrow would fill or refuse the rest
    obscurely.
    """
    first, first_where = rows[0], located[0][0]
    for row, (where, _, source) in zip(rows, located, strict=True):
        if require_completion and "completion" not in row:
            raise ValueError(
                f"{where}: has no completion; prompts alone serve only as a forgetting task. "
                f"Columns: {', '.join(sorted(source))}"
            )
        for column in ("completion", "choices", "options", "old_answer", "kind", "forgetting_confidence"):
            if (column in row) != (column in first):
                raise ValueError(f"{where}: rows with and without {column} are mixed (compare {first_where})")
        if isinstance(row["prompt"], str) != isinstance(first["prompt"], str):
            raise ValueError(f"{where}: text and conversations are mixed (compare {first_where})")
        if "choices" in row and row["completion"] not in row["choices"]:
            raise ValueError(
                f"{where}: completion={shown(row['completion'])} is none of choices={shown(row['choices'])}"
            )
        if split == "test" and isinstance(row.get("completion"), list) and len(row["completion"]) > 1:
            raise ValueError(
                f"{where}: completion has {len(row['completion'])} turns, and one answer is generated for a test row: "
                "put the earlier turns into the prompt"
            )


def _check_other_split(task: Task, split: str, prompt: Any, where: str) -> None:
    """Raise where the other split of the user's data has the other kind of prompt: it is seen before any work, and not
    when that split is evaluated.
    """
    other = "test" if split == "train" else "train"
    if task.path is None or other not in split_files(task.path, _source_splits(task)):
        return
    located = next(iter(_located_rows(task, other, "hub")), None)
    if located is not None:
        first = _formatted(task, located[0], located[1], located[2])
        if isinstance(first["prompt"], str) != isinstance(prompt, str):
            raise ValueError(
                f"{located[0]}: text and conversations are mixed (compare {where}); give both splits the same form"
            )
