"""The run directory: one folder a stage, reused while what it was made from is unchanged."""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from filelock import FileLock

from graceful_forgetting.results.provenance import peak_memory, reset_peak_memory
from graceful_forgetting.results.result import StageResult
from graceful_forgetting.results.text import duration
from graceful_forgetting.runtime.artifacts import remove_partials
from graceful_forgetting.runtime.distributed import from_main_process, on_main_process, process_index
from graceful_forgetting.runtime.lock import hold
from graceful_forgetting.runtime.secrets import public_settings
from graceful_forgetting.runtime.store import STAGE_FILE, Entry, EntryError, key_of
from graceful_forgetting.runtime.termination import end_if_arrived

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, its cache key, the counts that it reported, and the checksum of its record."""

    name: str
    path: Path
    key: str
    detail: dict[str, Any]
    content: str = ""


class RunDirectory:
    """Runs stages into folders of one directory.

    A stage may save what it has done so far in its `work_folder`, which is removed when the stage is finished. A
    finished stage is reused if its folder is undamaged and was made with the same key: the hash of its name, its
    settings, the keys of the stages that it reads and the version of this package. Otherwise it is made anew, and with
    it every stage that reads it, in a temporary folder that takes the place of the old one when complete, so that an
    interrupted stage leaves the directory as it was. A folder that is not a stage of ours is never replaced.

    Under several processes every one must run every stage, in the same order, and see the same directory. Process 0
    decides what is reused and writes; the others build along, for their share of the work, and wait for its folder.

    A directory that cannot be written serves as long as everything in it can be reused: `read_only`.

    Args:
        path: the run directory; made if missing.
        force: make everything anew.
        announce: receives one line a stage, and with `starts` another when it begins.
        starts: whether the beginning of a stage is announced.
        reuse: whether finished stages serve again; work in progress always does, where its own keys allow it.

    Raises:
        ValueError: another process works in the directory, or it is a file.
        DiskError: it cannot be made.
    """

    # Whether there is a folder for every key of a stage, which several processes may use at once.
    shared = False

    def __init__(
        self,
        path: str | Path,
        force: bool = False,
        announce: Callable[[str], None] = logger.info,
        reuse: bool = True,
        starts: bool = True,
    ):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"output_dir={str(path)!r} is a file: name a folder")
        self.force = force
        self.announce = announce
        self.starts = starts
        self.reuse = reuse and not force
        self.results: list[StageResult] = []
        self.read_only = False
        self._lock: FileLock | None = None
        # In other processes' eyes, what process 0 is writing looks interrupted; so does what another run shares.
        if process_index() == 0 and not self.shared:
            self._lock = hold(self.path)
            self.read_only = self._lock is None
            if not self.read_only:
                remove_partials(self.path)

    def close(self) -> None:
        """Let other processes work in the directory."""
        if self._lock is not None:
            self._lock.release()

    def _entry(self, name: str, key: str) -> Entry:
        """Where the stage is when it is finished."""
        folder = self.path / name
        return Entry(folder / key if self.shared else folder, key, STAGE_FILE)

    def _work(self, name: str, key: str) -> Entry:
        """Where a long stage keeps what it has done so far."""
        folder = self.path / "work" / name
        return Entry(folder / key if self.shared else folder, key)

    def stage(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: list[Stage],
        build: Callable[[Path, str], dict[str, Any]],
    ) -> Stage:
        """Reuse stage `name`, or run `build(folder, key)`, which fills the folder and returns counts to record.

        Raises `FileExistsError` where a folder that is not a stage of ours is in its place.
        """
        end_if_arrived()
        settings = public_settings(settings)
        key = key_of(stage=name, settings=settings, inputs=[stage.key for stage in inputs])
        entry, contents = self._entry(name, key), [stage.content for stage in inputs]
        with entry.locked() if self.shared else nullcontext():
            known, reason = on_main_process(partial(self._look_up, entry, contents))
            status: Literal["run", "reused"] = "run" if known is None else "reused"
            if known is None:
                if self.starts:
                    self.announce(f"{name}: running{reason} ...")
                known = self._made(entry, {"name": name, "settings": settings, "inputs": contents}, build)
                self.announce(f"{name}: done in {duration(known['seconds'])} ({_counts(known['detail'])})")
            else:
                self.announce(f"{name}: reused ({_counts(known['detail'])})")
            on_main_process(partial(self._finish, self._work(name, key)))
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
        return Stage(name, entry.path, key, known["detail"], known["checksum"])

    def _finish(self, work: Entry) -> None:
        if not self.read_only:
            work.remove()

    def _look_up(self, entry: Entry, contents: list[str]) -> tuple[dict[str, Any] | None, str]:
        """The record of the stage, None if it must be made, and then why again."""
        reason = ""
        if self.reuse:
            try:
                known = entry.check()
                if known is None or known["inputs"] == contents:
                    return known, ""
                reason = " again, since what it reads was made again"
            except EntryError as error:
                reason = f" again, since {error}"
                if self.shared:
                    # Whoever runs many cells does not see the lines of each.
                    logger.warning("%s is made again, since %s", entry.path, error)
        entry.claim()
        return None, reason

    def _made(
        self, entry: Entry, about: dict[str, Any], build: Callable[[Path, str], dict[str, Any]]
    ) -> dict[str, Any]:
        """Run the stage; returns its record."""
        reset_peak_memory()
        start = time.perf_counter()

        def fill(folder: Path) -> dict[str, Any]:
            detail = build(folder, entry.key)
            memory = peak_memory()
            return {
                **about,
                "seconds": time.perf_counter() - start,
                "peak_memory_bytes": memory.process_bytes,
                "peak_device_memory_bytes": memory.device_bytes,
                "detail": detail,
            }

        if process_index() == 0:
            return from_main_process(entry.write(fill))
        with TemporaryDirectory() as folder:
            fill(Path(folder))
        return from_main_process({})

    def work_folder(self, name: str, key: str) -> Path:
        """A folder for what a long stage saves on its way; emptied when it was left by a run with another key."""
        return on_main_process(partial(self._work(name, key).begin, fresh=self.force))


class SharedStages(RunDirectory):
    """A `RunDirectory` with a folder `<stage>/<key>` for every key, which several processes may use at once.

    A process that needs a stage which another one is making waits for it. The lock of a process that dies is released
    by the operating system; the next one discards what was left half-written and makes the stage anew.
    """

    shared = True


class StagesAhead(RunDirectory):
    """What a run would make in a `RunDirectory`: asked for stages, it looks which are there, and builds none.

    Args:
        directory: where the stages are.
        candidates: names of what trial runs would try, see `candidates`.

    Attributes:
        ahead: names of the stages that are not there, in their order.
    """

    def __init__(self, directory: RunDirectory, candidates: Sequence[str] = ()):
        self.__dict__.update(directory.__dict__)
        self.ahead: list[str] = []
        self._keys: set[str] = set()
        # What stages that are not there are taken to record where others ask for it: enough to go on.
        self._taken: dict[str, dict[str, Any]] = {
            "self_knowledge": {"prompts": 0, "kept": sys.maxsize},
            "candidates": {"names": list(candidates)},
            "selection": {"chosen": 1},
        }

    def stage(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: list[Stage],
        build: Callable[[Path, str], dict[str, Any]],
    ) -> Stage:
        """The stage as it is in the directory, or one without files."""
        del build
        key = key_of(stage=name, settings=public_settings(settings), inputs=[stage.key for stage in inputs])
        entry = self._entry(name, key)
        known = None
        if self._keys.isdisjoint(stage.key for stage in inputs):
            known, _ = self._look_up(entry, [stage.content for stage in inputs])
        if known is None:
            self.ahead.append(name)
            self._keys.add(key)
            return Stage(name, entry.path, key, self._taken.get(name.rpartition("/")[2], {}))
        return Stage(name, entry.path, key, known["detail"], known["checksum"])


def copy_stage(stage: Stage, folder: Path) -> None:
    """Copy what a stage has made into `folder`, without the record of it."""
    shutil.copytree(stage.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STAGE_FILE))


def _counts(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in detail.items() if _is_short(value)) or "ok"


def _is_short(value: Any) -> bool:
    return isinstance(value, int | str) and len(str(value)) <= 40
