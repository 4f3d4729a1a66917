"""JSON Lines files: which file holds a split, and reading one with errors that name the file and the line."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graceful_forgetting.tasks.task import SPLITS, VALIDATION, shown

_OTHER_FORMATS = (".csv", ".parquet", ".arrow")
_MOST_DIGITS = 1000
_LONG_NUMBER = re.compile(r'(?:"([^"\\]*)"\s*:\s*)?[\s\[,]*-?\d{' + str(_MOST_DIGITS) + ",}")
# Rows are objects with texts and lists of turns: nothing that is meant as one is nested deeper.
_DEEPEST = 64
_TOO_DEEP = f"nested deeper than {_DEEPEST} lists and objects; a row is one object with texts or turns"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")


def split_files(path: Path, source_splits: Mapping[str, str] | None = None) -> dict[str, list[Path]]:
    """Split name -> files, for a folder (`train.jsonl`, `test.jsonl`: those that exist) or for one file.

    One file holds the train split, unless it is called test.jsonl: so rows are never trained and tested on by
    accident. In a folder without `<split>.jsonl`, the files of `source_splits` stand in: {"train": "dev+validation"}
    is dev.jsonl and validation.jsonl. Without `source_splits`, validation.jsonl is a split of its own. Raises
    `FileNotFoundError` if `path` does not exist or is a folder with none of them, naming what was tried, and
    `ValueError` for a file of another kind.
    """
    if path.is_file() and path.suffix in _OTHER_FORMATS:
        raise ValueError(f"{path} is no JSON Lines file: {_rewriting(path)}")
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
    own_validation = path / f"{VALIDATION}.jsonl"
    if found and not source_splits and own_validation.is_file():
        found[VALIDATION] = [own_validation]
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


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers (from 1), in order; blank lines are skipped.
    Read is no more than is taken.

    Raises `ValueError` naming `path:line` where a line is not a JSON object, has a key twice, half a character, or a
    number or nesting beyond what can be computed with; or naming `path` if it holds no rows or is not UTF-8.
    """
    empty = True
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    empty = False
                    yield number, _parse_line(path, number, line)
    except UnicodeDecodeError as error:
        raise not_utf8(path, "JSON Lines") from error
    if empty:
        raise ValueError(f"{path} is empty: it must hold one JSON object a line")


def not_utf8(path: Path, kind: str) -> ValueError:
    """The error for a file of `kind` that cannot be decoded: names the file, its first bad line, and what to do."""
    content = path.read_bytes()
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return ValueError(f"{path} is not UTF-8 text but UTF-16; save it as UTF-8 {kind}")
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
            return ValueError(f"{path} is not UTF-8 text (line {number}: {byte}); save it as UTF-8 {kind}")
    return ValueError(f"{path} is not UTF-8 text; save it as UTF-8 {kind}")


def _rewriting(path: Path) -> str:
    """How the rows of a file of another kind become lines, in Python."""
    load = f"datasets.load_dataset({path.suffix[1:]!r}, data_files={str(path)!r}, split='train')"
    return f"write the rows with {load}.to_json({str(path.with_name(path.stem + '-rows.jsonl'))!r})"


class _UnusableError(ValueError):
    """A value of a line that is valid JSON and cannot be used."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _UnusableError(f"key {shown(twice)} stands twice in one object; keep one of them")
    return row


def _integer(digits: str) -> int:
    # Arrow has no longer integers, and Python refuses to read them from 4300 digits on.
    if len(digits) > _MOST_DIGITS:
        raise _UnusableError(
            f"the number {digits[:20]}... has {len(digits)} digits, and a number can have {_MOST_DIGITS}; "
            "write it as text, in quotes"
        )
    return int(digits)


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=_integer)


def _parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    listed = f". Of one list, {_rewriting(path)}" if line.lstrip().startswith("[") else ""
    try:
        row = _DECODER.decode(line)
        _check_text(row, line)
    except json.JSONDecodeError as error:
        hint = "; the file looks like UTF-16: save it as UTF-8" if "\0" in line else listed
        raise ValueError(
            f"{path}:{number} is not valid JSON ({error}); each line must be one JSON object{hint}"
        ) from error
    except _UnusableError as error:
        field = _field_before(line, str(error))
        raise ValueError(f"{path}:{number}: {field}{error}") from error
    except RecursionError as error:
        raise ValueError(f"{path}:{number}: {_TOO_DEEP}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}:{number} is a JSON {type(row).__name__}; each line must be one JSON object{listed}")
    return row


def _field_before(line: str, message: str) -> str:
    """'field: ' for a number in `message`: the key that stands before it in the line."""
    long_number = _LONG_NUMBER.search(line) if message.startswith("the number") else None
    return f"{long_number.group(1)}: " if long_number and long_number.group(1) else ""


def _check_text(row: Any, line: str) -> None:
    """Raise where a text has half a character (an escaped surrogate without its other half) or nesting is deep."""
    suspicious = _SURROGATE.search(line) is not None
    if not suspicious and max(line.count("["), line.count("{")) <= _DEEPEST:
        return
    left = [("", row, 0)]
    while left:
        field, value, depth = left.pop()
        if depth > _DEEPEST:
            raise _UnusableError(_TOO_DEEP)
        if isinstance(value, dict):
            left += [(field or str(key), part, depth + 1) for pair in value.items() for key, part in [pair]]
            left += [(field or "a key", key, depth + 1) for key in value]
        elif isinstance(value, list):
            left += [(field, part, depth + 1) for part in value]
        elif suspicious and isinstance(value, str) and (half := _HALF.search(value)):
            raise _UnusableError(
                f"{ascii(field)[1:-1]} has half a character, \\u{ord(half.group()):04x}, at position {half.start()}: "
                "text was cut inside an emoji or the like; write the whole character or remove it"
            )
