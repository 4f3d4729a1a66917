"""Checkpoints of a training run: sealed when whole, passed over when damaged or of another run.

A run has an identity, kept in its folder and in the record of each checkpoint, so that what an earlier run has left in
the same folder is not taken for its own.
"""

import logging
import uuid
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from graceful_forgetting.runtime.artifacts import read_json, write_json
from graceful_forgetting.runtime.store import Entry, EntryError

logger = logging.getLogger(__name__)

RUN_FILE = ".graceful-run.json"
_RECORD = "checkpoint.json"


def begin_run(folder: Path, checkpoint: Path | None) -> str:
    """The identity of a run that saves its checkpoints in `folder`: that of the checkpoint it goes on from, or new."""
    run = None if checkpoint is None else _recorded(checkpoint)
    run = run or uuid.uuid4().hex
    write_json(folder / RUN_FILE, {"run": run})
    return run


def seal_checkpoint(checkpoint: Path, run: str) -> None:
    """Record all files of a checkpoint that has been written. Raises `DiskError`."""
    Entry(checkpoint, run, _RECORD).seal()


def check_checkpoint(checkpoint: Path, run: str | None = None) -> None:
    """Refuse a checkpoint that is not as it was sealed.

    One without a record passes where `run` is None: another trainer may have written it.

    Args:
        run: the identity that it must have; None: any.

    Raises:
        EntryError: says what is wrong.
    """
    recorded = _recorded(checkpoint)
    if recorded is None and run is None and not (checkpoint / _RECORD).exists():
        return
    if recorded is None:
        raise EntryError("it was not written to its end, or is of another program")
    if run not in (None, recorded):
        raise EntryError("it is of another run")
    Entry(checkpoint, recorded, _RECORD).check()


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint of the folder's run that is intact; newer ones are named in a warning."""
    folder = Path(folder)
    run = _run_of(folder)
    for checkpoint in _newest_first(folder):
        try:
            check_checkpoint(checkpoint, run)
            _check_state(checkpoint)
        except EntryError as error:
            logger.warning("%s is passed over, since %s", checkpoint, error)
        else:
            return checkpoint
    return None


def _check_state(checkpoint: Path) -> None:
    """Refuse what holds a model alone (`save_only_model`), from which a run would not go on as it was."""
    for part in ("optimizer", "scheduler"):
        # DeepSpeed keeps both in a folder of its own.
        if not any(checkpoint.glob(f"{part}*")) and not any(checkpoint.glob("global_step*")):
            raise EntryError(f"it has no state of the {part}")


def _newest_first(folder: Path) -> list[Path]:
    found = {}
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if path.is_dir() and step.isdecimal():
            found[int(step)] = path
    return [found[step] for step in sorted(found, reverse=True)]


def _run_of(folder: Path) -> str | None:
    """The identity of the run in a folder; where its file is damaged or gone, that of the newest sealed checkpoint."""
    try:
        return str(read_json(folder / RUN_FILE)["run"])
    except (OSError, ValueError, LookupError, TypeError):
        return next((run for path in _newest_first(folder) if (run := _recorded(path)) is not None), None)


def _recorded(checkpoint: Path) -> str | None:
    try:
        return str(read_json(checkpoint / _RECORD)["key"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
