"""One directory, one run: a lock that the operating system releases with the process that holds it."""

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from graceful_forgetting.runtime.artifacts import writing

LOCK_FILE = ".lock"


def hold(folder: Path) -> FileLock | None:
    """Keep other processes from working in `folder`, made if missing, for as long as what is returned is referred to.

    This process may hold it several times. None: nothing can be written there, which leaves nothing to disturb.

    Raises:
        ValueError: another process works there.
        DiskError: the folder cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, is_singleton=True, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"output_dir={str(folder)!r} is in use by another process: wait until that ends, or name another folder"
        ) from None
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return None
        with writing(folder):
            raise
    return lock
