"""The run directory: one folder a stage, reused while what it was made from is unchanged."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from graceful_forgetting.runtime.version import __version__
from graceful_forgetting.runtime.artifacts import atomic_directory, read_json, remove_partials, write_json
from graceful_forgetting.runtime.distributed import from_main_process, process_index
from graceful_forgetting.results.provenance import peak_memory, reset_peak_memory
from graceful_forgetting.results.result import StageResult
from graceful_forgetting.results.text import duration
from graceful_forgetting.runtime.fingerprint import fingerprint_json

logger = logging.getLogger(__name__)

STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, its cache key, and the counts that it reported."""

    name: str
    path: Path
    key: str
    detail: dict[str, Any]


class RunDirectory:
    """Runs stages into folders of one directory.

    A stage may save what it has done so far in its `work_folder`, which is removed when the stage is finished. A
    finished stage is reused if its folder was made with the same key: the hash of its name, its settings, the keys of
    the stages that it reads and the version of this package. Otherwise it is made anew in a temporary folder that
    takes the place of the old one when complete, so that an interrupted stage leaves the directory as it was.

    Under several processes every one must run every stage, in the same order, and see the same directory. Process 0
    decides what is reused and writes; the others build along, for their share of the work, and wait for its folder.

    Args:
        path: the run directory; made if missing.
        force: never reuse.
        announce: receives one line a stage.
    """

    def __init__(self, path: str | Path, force: bool = False, announce: Callable[[str], None] = logger.info):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output_dir={str(path)!r} is a file: name a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self.force = force
        self.announce = announce
        self.results: list[StageResult] = []
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        if process_index() > 0:
            # What looks interrupted may be what process 0 is writing.
            return
        for folder in (self.path, *(entry for entry in self.path.iterdir() if entry.is_dir())):
            remove_partials(folder)

    def _folder(self, name: str, key: str) -> Path:
        """Where the stage is when it is finished."""
        del key
        return self.path / name

    def _work(self, name: str, key: str) -> Path:
        """Where a long stage keeps what it has done so far."""
        del key
        return self.path / "work" / name

    def _exclusively(self, name: str, key: str) -> AbstractContextManager[Any]:
        """Held while a stage is looked up and made."""
        del name, key
        return nullcontext()

    def stage(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: list[Stage],
        build: Callable[[Path, str], dict[str, Any]],
    ) -> Stage:
        """Reuse stage `name`, or run `build(folder, key)`, which fills the folder and returns counts to record."""
        key = fingerprint_json(
            {
                "version": __version__,
                "stage": name,
                "settings": settings,
                "inputs": [stage.key for stage in inputs],
            }
        )
        with self._exclusively(name, key):
            known, status = self._made(name, key, settings, build)
            shutil.rmtree(self._work(name, key), ignore_errors=True)
        self.results.append(
            StageResult(
                name=name,
                status=status,
                seconds=known["seconds"],
                peak_memory_bytes=known["peak_memory_bytes"],
                peak_device_memory_bytes=known["peak_device_memory_bytes"],
                key=key,
                detail=known["detail"],
            )
        )
        return Stage(name, self._folder(name, key), key, known["detail"])

    def _made(
        self, name: str, key: str, settings: dict[str, Any], build: Callable[[Path, str], dict[str, Any]]
    ) -> tuple[dict[str, Any], Literal["run", "reused"]]:
        """What the stage recorded of itself, and whether this call made it."""
        path = self._folder(name, key)
        known = from_main_process(None if self.force else self._read(path))
        if known is not None and known["key"] == key:
            self.announce(f"{name}: reused ({_counts(known['detail'])})")
            return known, "reused"
        reason = "" if known is None else " again, since its settings or inputs changed"
        self.announce(f"{name}: running{reason} ...")
        reset_peak_memory()
        start = time.perf_counter()
        with _folder_to_fill(path) as partial:
            detail = build(partial, key)
            memory = peak_memory()
            known = {
                "name": name,
                "key": key,
                "settings": settings,
                "seconds": time.perf_counter() - start,
                "peak_memory_bytes": memory.process_bytes,
                "peak_device_memory_bytes": memory.device_bytes,
                "detail": detail,
            }
            write_json(partial / STAGE_FILE, known)
        known = from_main_process(known)
        self.announce(f"{name}: done in {duration(known['seconds'])} ({_counts(known['detail'])})")
        return known, "run"

    def _read(self, path: Path) -> dict[str, Any] | None:
        file = path / STAGE_FILE
        if not file.is_file():
            return None
        try:
            content = read_json(file)
            return content if {"key", "detail", "seconds"} <= set(content) else None
        except (ValueError, TypeError):
            self.announce(f"{path.name}: {file} is damaged and is made again")
            return None

    def work_folder(self, name: str, key: str) -> Path:
        """A folder for what a long stage saves on its way; emptied when it was left by a run with another key."""
        folder = self._work(name, key)
        marker = folder / "key.json"
        if process_index() == 0 and (not marker.is_file() or self.force or read_json(marker) != key):
            with atomic_directory(folder) as partial:
                write_json(partial / "key.json", key)
        return from_main_process(folder)


@contextmanager
def _folder_to_fill(path: Path) -> Iterator[Path]:
    """What becomes `path` on process 0; on the others a folder that is thrown away."""
    if process_index() == 0:
        with atomic_directory(path) as partial:
            yield partial
    else:
        with TemporaryDirectory() as folder:
            yield Path(folder)


def _counts(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in detail.items() if _is_short(value)) or "ok"


def _is_short(value: Any) -> bool:
    return isinstance(value, int | str) and len(str(value)) <= 40
