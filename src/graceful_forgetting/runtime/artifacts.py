"""Writing artefacts so that a reader never meets half of one.

Everything is written under a temporary name beside its final place, flushed to the disk and renamed when complete. A
killed process leaves at most a `*.partial-graceful-<pid>` entry, which nothing reads and `remove_partials` clears.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Long enough that nobody else has files named like this.
_PARTIAL = ".partial-graceful-"
_PARTIAL_NAME = re.compile(rf"(?P<name>.+){re.escape(_PARTIAL)}(?P<process>\d+)(-old)?", re.DOTALL)
# What errors that are no `OSError` say of a disk that is full: safetensors, and torch.save with its archive.
_FULL = ("os error 28", "os error 122", "os error 27", "PytorchStreamWriter", "unexpected pos ")


class DiskError(OSError):
    """Something could not be written: the disk is full, out of inodes or read-only. The message says all of it."""


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

    An existing `path` is replaced only then; on an exception it is left as it was. Raises `DiskError` as `writing`.
    """
    path = Path(path)
    partial = _partial_path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        partial.mkdir()
        try:
            yield partial
            flush(partial)
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
        _flush(path.parent)


def remove_directory(path: Path) -> None:
    """Remove a directory so that nobody meets a part of it: what a kill leaves goes with other interrupted writes."""
    partial = _partial_path(path)
    _remove(partial)
    path.rename(partial)
    _remove(partial)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file name that is renamed to `path` when the block ends without an exception.

    Raises `DiskError` as `writing`.
    """
    path = Path(path)
    partial = _partial_path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _flush(partial)
        except BaseException:
            _remove(partial)
            raise
        os.replace(partial, path)
        _flush(path.parent)


def flush(folder: Path) -> None:
    """Put everything in `folder` on the disk, so that a power cut after a rename finds it whole."""
    for entry in (*folder.rglob("*"), folder):
        if not entry.is_symlink():
            _flush(entry)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Around what writes `path` or works towards it: a disk that does not take it becomes one clear error.

    Raises:
        DiskError: no space, no inodes, over a quota or a limit of size, or nothing may be written beside `path`.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        reason = _disk_reason(error, Path(path))
        if reason is None:
            raise
        raise DiskError(
            f"{path} cannot be written: {reason}. What was finished before is intact: the same command goes on from it"
        ) from error


def _disk_reason(error: Exception, path: Path) -> str | None:
    """What is wrong with the disk, and what to do; None where `error` is about something else."""
    code = error.errno if isinstance(error, OSError) else None
    full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(text in str(error) for text in _FULL)
    own = isinstance(error, OSError) and Path(str(error.filename)).is_relative_to(path.parent)
    if not full and not (own and code in (errno.EROFS, errno.EACCES, errno.EPERM)):
        return None
    place = next(folder for folder in path.absolute().parents if folder.is_dir())
    if not full:
        assert code is not None
        return f"{os.strerror(code).lower()}; make {place} writable, or name another folder"
    status = os.statvfs(place)
    space = status.f_bavail * status.f_frsize
    said = os.strerror(code or errno.ENOSPC).lower()
    return f"{said}; {space / 2**20:.1f} MiB and {status.f_favail} inodes are free in {place}. Make room there"


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented UTF-8 JSON, atomically. Raises `ValueError` on NaN or infinity (not JSON)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def file_sha256(path: Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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
