"""Files under a key: written whole, recorded with their sizes and hashes, and checked before they are used.

An entry is a folder that appears when it is complete. A record in it names its key and every file. What differs from
the record is damaged and never serves; what the record does not name is somebody else's and is never removed. A second
file, the mark, names the files too: it shows whose they are where the record is damaged.
"""

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from graceful_forgetting.runtime.artifacts import (
    atomic_directory,
    file_sha256,
    flush,
    read_json,
    remove_directory,
    remove_partials,
    write_json,
    writing,
)
from graceful_forgetting.runtime.hashes import fingerprint_json
from graceful_forgetting.runtime.version import __version__

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

# The record of a stage of a run.
STAGE_FILE = "stage.json"
_MARK = ".graceful-forgetting"
# In a folder of progress, what a training run leaves there that has no mark of its own.
_OF_PROGRESS = re.compile(r"checkpoint-\d+|curve\.json|README\.md|\.graceful-run\.json|\.lock")
# By device, inode, size and time of change, so that a file is read once a process.
_hashes: dict[tuple[int, int, int, int], str] = {}


class EntryError(ValueError):
    """An entry cannot be used; the message says why, after "since"."""


def key_of(**parts: Any) -> str:
    """Hash of what an entry is made from (JSON-able) and of the version of this package."""
    return fingerprint_json({"version": __version__, **parts})


def read_rows(folder: str | Path) -> "Dataset":
    """Rows saved by `Dataset.save_to_disk`, mapped from their files, so that they take no memory of the process.

    To the library they are in memory: `map`, `filter` and `sort` write no caches beside them, into the entry.
    """
    # Comparing results need not wait for this import where no rows are left.
    from datasets import Dataset, load_from_disk
    from datasets.table import InMemoryTable

    rows = load_from_disk(str(folder))
    table = InMemoryTable(rows.data.table)
    # Without the known one it would be made from all of the content.
    return Dataset(table, info=rows.info, split=rows.split, fingerprint=rows._fingerprint)


@dataclass(frozen=True)
class Entry:
    """A folder of files under a key.

    Attributes:
        path: the folder.
        key: hash of all that the files depend on, see `key_of`.
        record: name of the file in it that holds the key, the other files' sizes and SHA-256, and what `write` adds.
    """

    path: Path
    key: str
    record: str = "record.json"

    def check(self) -> dict[str, Any] | None:
        """The record; None where there is no such folder. Sizes are compared at every call, hashes once a process.

        Raises:
            EntryError: it was made under another key, or is damaged.
            FileExistsError: the folder is not ours.
        """
        if self._is_free():
            return None
        known = self._require_ours()
        if known is None:
            raise EntryError(f"its {self.record} is damaged")
        if known["key"] != self.key:
            raise EntryError("its settings or inputs changed")
        for name, (size, digest) in (known["files"] or {}).items():
            file = self.path / name
            found = file.stat().st_size if file.is_file() else None
            if found is None:
                raise EntryError(f"its {name} is gone")
            if found != size:
                raise EntryError(f"its {name} is damaged ({found} bytes in place of {size})")
            if _sha256(file) != digest:
                raise EntryError(f"its {name} is damaged (another content than was written)")
        return known

    def read(self) -> dict[str, Any] | None:
        """As `check`; None, and a warning, also where the entry cannot be used."""
        try:
            return self.check()
        except EntryError as error:
            logger.warning("%s is made again, since %s", self.path, error)
            return None

    def write(self, fill: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
        """Replace the entry by what `fill(folder)` writes; what it returns (JSON-able) stands in the record, returned.

        Raises `FileExistsError` as `claim`, before `fill` is called.
        """
        self.claim()
        with atomic_directory(self.path) as partial:
            return self._record(partial, fill(partial))

    def seal(self) -> None:
        """Make the folder, which something else has filled, an entry: what is in it at this moment."""
        with writing(self.path / self.record):
            (self.path / self.record).unlink(missing_ok=True)
            self._record(self.path, {})
            flush(self.path)

    def once(self, fill: Callable[[Path], Mapping[str, Any]]) -> Path:
        """The folder, made by `fill` if it cannot be used as it is; of several processes one makes it, others wait."""
        if self.read() is None:
            with self.locked():
                if self.read() is None:
                    self.write(fill)
        return self.path

    def begin(self, fresh: bool = False) -> Path:
        """The folder, for what is saved on the way to a result; emptied if `fresh`, or begun under another key."""
        known = self._known()
        if fresh or known is None or known["key"] != self.key:
            self.claim()
            if known is None and (self.path / _MARK).is_file():
                logger.warning("%s is begun again, since its %s is damaged", self.path, self.record)
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                (self.path / _MARK).touch()
                self._remove_progress()
                self._record(self.path, {}, open=True)
        return self.path

    def claim(self) -> None:
        """Raise `FileExistsError` where replacing the folder would remove what is not ours."""
        if self._is_free():
            return
        files = self._named(self._require_ours())
        if files is None:
            return
        # The library's caches, see `read_rows`, can be made again.
        others = [name for name in _files(self.path) if not Path(name).match("cache-*.arrow")]
        for name in sorted(set(others) - set(files) - {self.record, _MARK}):
            raise FileExistsError(
                f"{self.path / name} was not made by this program, and the folder is to be replaced: move the file away"
            )

    def _is_free(self) -> bool:
        """Whether nothing is there, or an empty folder, as a kill in the middle of a removal leaves one."""
        if not os.path.lexists(self.path):
            return True
        return self.path.is_dir() and not self.path.is_symlink() and not any(self.path.iterdir())

    def remove(self) -> None:
        """Remove a folder of progress, if it is ours, but for what is not ours in it."""
        remove_partials(self.path.parent, of=self.path.name)
        if os.path.lexists(self.path):
            self.claim()
            self._remove_progress()
            if {entry.name for entry in self.path.iterdir()} <= {_MARK}:
                remove_directory(self.path)

    def _remove_progress(self) -> None:
        # Without its record an emptied folder is begun again, and a half emptied one too.
        (self.path / self.record).unlink(missing_ok=True)
        remove_partials(self.path)
        for entry in list(self.path.iterdir()):
            known = _OF_PROGRESS.fullmatch(entry.name)
            if entry.is_dir() and (known or (entry / _MARK).is_file()):
                remove_directory(entry)
            elif known:
                entry.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time is in this block; the lock of one that dies is released."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                remove_partials(self.path.parent, of=self.path.name)
                yield

    def _record(self, folder: Path, content: Mapping[str, Any], open: bool = False) -> dict[str, Any]:
        """Write the record, and return it; of a folder of progress, which is `open`, it names no files."""
        files = None
        if not open:
            (folder / _MARK).write_text("".join(f"{name}\n" for name in _files(folder)), encoding="utf-8")
            files = {name: [file.stat().st_size, _sha256(file)] for name, file in _files(folder).items()}
        content = {"key": self.key, "version": __version__, **content, "files": files}
        known: dict[str, Any] = json.loads(json.dumps(content))
        known["checksum"] = fingerprint_json(known)
        write_json(folder / self.record, known)
        return known

    def _known(self) -> dict[str, Any] | None:
        """The record, whole and as it was written, or None."""
        try:
            known: dict[str, Any] = read_json(self.path / self.record)
            content = {name: value for name, value in known.items() if name != "checksum"}
            return known if known["checksum"] == fingerprint_json(content) else None
        except (OSError, ValueError, AttributeError, LookupError, TypeError):
            return None

    def _require_ours(self) -> dict[str, Any] | None:
        """The record, None where it is damaged."""
        known = self._known()
        if known is None and not (self.path / _MARK).is_file():
            raise FileExistsError(
                f"{self.path} was not made by this program (no valid {self.record} in it), so it is neither used nor "
                "replaced: move it away, or choose another folder"
            )
        return known

    def _named(self, known: Mapping[str, Any] | None) -> list[str] | None:
        """The files that the record names, or else the mark; None where neither does, as in a folder of progress.

        A record whose files are all missing is that of another folder: two have changed places.
        """
        named = list((known or {}).get("files") or ())
        if any((self.path / name).is_file() for name in named if name != _MARK):
            return named
        mark = self.path / _MARK
        marked = mark.read_text(encoding="utf-8", errors="replace").splitlines() if mark.is_file() else named
        return marked or None


def _files(folder: Path) -> dict[str, Path]:
    """Every file in `folder`, by its path in it."""
    return {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if not file.is_dir()}


def _sha256(file: Path) -> str:
    status = file.stat()
    # The same before and after a folder is renamed.
    stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if stamp not in _hashes:
        _hashes[stamp] = file_sha256(file)
    return _hashes[stamp]
