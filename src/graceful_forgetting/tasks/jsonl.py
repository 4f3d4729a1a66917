"""JSON Lines files: which file holds a split, and reading one with errors that name the file and the line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graceful_forgetting.tasks.task import SPLITS


def split_files(path: Path, source_splits: Mapping[str, str] | None = None) -> dict[str, list[Path]]:
    """Split name -> files, for a folder (`train.jsonl`, `test.jsonl`: those that exist) or for one file.

    One file holds the train split, unless it is called test.jsonl: so rows are never trained and tested on by
    accident. In a folder without `<split>.jsonl`, the files of `source_splits` stand in: {"train": "dev+validation"}
    is dev.jsonl and validation.jsonl. Raises `FileNotFoundError` if `path` does not exist or is a folder with none of
    them, naming what was tried.
    """
    if path.is_file():
        return {"test" if path.name == "test.jsonl" else "train": [path]}
    if not path.exists():
        raise FileNotFoundError(f"no file or folder at {path.absolute()}; give a JSONL file or a folder of them")
    tried: list[str] = []
    found: dict[str, list[Path]] = {}
    for split in SPLITS:
        for names in (split, (source_splits or {}).get(split, split)):
            files = [path / f"{name}.jsonl" for name in names.split("+")]
            tried += [file.name for file in files if file.name not in tried]
            if all(file.is_file() for file in files):
                found[split] = files
                break
    if not found:
        raise FileNotFoundError(f"no data in folder {path.absolute()}: tried {', '.join(tried)}")
    return found


def files_of_split(path: Path, split: str, source_splits: Mapping[str, str] | None = None) -> list[Path]:
    """The files of one split under `path`; raises `FileNotFoundError` saying what was tried and what is."""
    files = split_files(path, source_splits)
    if split in files:
        return files[split]
    if path.is_file():
        raise FileNotFoundError(
            f"split {split!r} is not in {path.absolute()}: one file is taken as the {next(iter(files))} "
            f"split. Put both splits into one folder as train.jsonl and test.jsonl and give that folder"
        )
    there = ", ".join(file.name for group in files.values() for file in group)
    raise FileNotFoundError(
        f"split {split!r} is not in folder {path.absolute()}: tried {split}.jsonl; there is {there}"
    )


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers (from 1), in order; blank lines are skipped.

    Raises `ValueError` naming `path:line` where a line is not a JSON object, or naming `path` if it holds no
    rows or is not UTF-8.
    """
    rows = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append((number, _parse_line(path, number, line)))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8 JSON Lines") from error
    if not rows:
        raise ValueError(f"{path} is empty: it must hold one JSON object a line")
    return rows


def _parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{number} is not valid JSON ({error}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}:{number} is a JSON {type(row).__name__}; each line must be one JSON object")
    return row
