"""Writing artefacts so that a reader never meets half of one.

Everything is written under a temporary name beside its final place and renamed when complete. A killed process leaves
at most a `*.partial-<pid>` entry, which nothing reads and `remove_partials` clears.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTIAL = ".partial-"
_PARTIAL_NAME = re.compile(rf"(?P<name>.+){re.escape(_PARTIAL)}(?P<process>\d+)(-old)?", re.DOTALL)


def cache_root() -> Path:
    """Folder of what this package builds once and keeps: the environment variable `GRACEFUL_CACHE`, or
    `~/.cache/graceful-forgetting`."""
    named = os.environ.get("GRACEFUL_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "graceful-forgetting"


def _partial_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{_PARTIAL}{os.getpid()}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a fresh temporary directory that takes the place of `path` when the block ends without an exception.

    An existing `path` is replaced only then; on an exception it is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path)
    _remove(partial)
    partial.mkdir()
    try:
        yield partial
    except BaseException:
        _remove(partial)
        raise
    if path.exists():
        # A directory cannot be renamed over a non-empty one: the old one steps aside first.
        retired = path.with_name(f"{path.name}{_PARTIAL}{os.getpid()}-old")
        _remove(retired)
        path.rename(retired)
        partial.rename(path)
        _remove(retired)
    else:
        partial.rename(path)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file name that is renamed to `path` when the block ends without an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path)
    try:
        yield partial
    except BaseException:
        _remove(partial)
        raise
    os.replace(partial, path)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically. Raises `ValueError` on NaN or infinity (not JSON)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a damaged one raises `ValueError` that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        # Not UTF-8, not JSON, or with a number or a nesting that Python does not read.
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run the stage again") from error


def remove_partials(directory: str | Path, of: str | None = None) -> list[Path]:
    """Remove what interrupted writes left in `directory`, at any depth.

    What a process that lives is writing stays. `of`: only what would have become the entry of that name directly inside
    `directory`, whoever wrote it: for the holder of the entry's lock.

    Returns:
        the removed paths.
    """
    found = Path(directory).glob(f"*{_PARTIAL}*") if of is not None else Path(directory).rglob(f"*{_PARTIAL}*")
    leftovers = []
    for entry in list(found):
        parts = _PARTIAL_NAME.fullmatch(entry.name)
        if parts and (parts["name"] == of if of is not None else not _lives(int(parts["process"]))):
            _remove(entry)
            leftovers.append(entry)
    return leftovers


def _lives(process: int) -> bool:
    """Whether a process with this number, other than this one, runs on this machine."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
