"""How a process ends early: on SIGTERM after the update that it is in, and with the process that started it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# What a shell reports of a process that SIGTERM ended: 128 and the number of the signal.
EXIT_CODE = 128 + signal.SIGTERM
_arrived = False
_waiting = False


class Terminated(BaseException):
    """SIGTERM arrived. No error that a stage might handle, as `KeyboardInterrupt` is none."""


@contextmanager
def ends_on_sigterm(say: Callable[[str], None]) -> Iterator[None]:
    """In this block SIGTERM raises `Terminated`: at once, but see `waits_for_update`.

    A process hears of one end twice where its group and its parent pass the signal on, so only the first counts.

    Args:
        say: receives a line where the end is not at once; it is called in a signal handler.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        global _arrived
        if _arrived:
            return
        _arrived = True
        if not _waiting:
            raise Terminated
        say("SIGTERM: a checkpoint is saved after this update, then the run ends")

    global _arrived
    # Python delivers signals to its main thread alone.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _arrived = False


@contextmanager
def waits_for_update() -> Iterator[None]:
    """In this block SIGTERM raises nothing: who trains asks `arrived` after each update, and saves first."""
    global _waiting
    _waiting = True
    try:
        yield
    finally:
        _waiting = False


def arrived() -> bool:
    """Whether SIGTERM has been received in the block of `ends_on_sigterm`."""
    return _arrived


def end_if_arrived() -> None:
    """Raise `Terminated` where SIGTERM came and nobody has ended yet: too late for an update, or while Python ran code
    whose exceptions it drops."""
    if _arrived:
        raise Terminated


def end_with_parent(parent: int) -> None:
    """End this process, as SIGKILL would, within a second of the end of the process `parent` that started it.

    A process that loses its parent gets another one, on Linux and macOS alike; a death signal is Linux's alone.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
