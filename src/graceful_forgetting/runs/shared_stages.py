"""Stages that many runs share: one folder a content key, made once, whichever process comes first."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock

from graceful_forgetting.runtime.artifacts import remove_partials
from graceful_forgetting.training.stages import RunDirectory


class SharedStages(RunDirectory):
    """A `RunDirectory` with a folder `<stage>/<key>` for every key, which several processes may use at once.

    A process that needs a stage which another one is making waits for it. The lock of a process that dies is released
    by the operating system; the next one discards what was left half-written and makes the stage anew.
    """

    def _remove_leftovers(self) -> None:
        """Nothing at the start: another process may be writing. `_made` removes what belongs to its own key."""

    def _folder(self, name: str, key: str) -> Path:
        return self.path / name / key

    def _work(self, name: str, key: str) -> Path:
        return self.path / "work" / name / key

    def _exclusively(self, name: str, key: str) -> AbstractContextManager[Any]:
        folder = self._folder(name, key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(folder.with_name(f"{key}.lock"))

    def _made(self, name: str, key: str, *arguments: Any) -> Any:
        for folder in (self._folder(name, key), self._work(name, key)):
            remove_partials(folder.parent, of=key)
        return super()._made(name, key, *arguments)
