"""Progress bars: rate and time left, on a terminal only, by the first process only, gone when their work is done."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm

from graceful_forgetting.runtime.distributed import process_index

_hidden: ContextVar[bool] = ContextVar("hidden", default=False)
_joint: ContextVar["tqdm[Any] | None"] = ContextVar("joint", default=None)


def progress_allowed() -> bool:
    """Whether bars may be drawn here, terminal or not: by the first process, without `TQDM_DISABLE` (tqdm's own)."""
    return not _hidden.get() and process_index() == 0 and os.environ.get("TQDM_DISABLE", "") in ("", "0")


def progress_bar(description: str, unit: str, total: int | None = None, **settings: Any) -> "tqdm[Any]":
    """A bar for `total` units of work; `unit` in the plural, as it stands after the rate. `settings` go to tqdm.

    Nothing is drawn where standard error is not a terminal, or `progress_allowed` says no.
    """
    return tqdm(
        desc=description,
        unit=f" {unit}",
        total=total,
        leave=False,
        dynamic_ncols=True,
        disable=None if progress_allowed() else True,
        **settings,
    )


@contextmanager
def counted_progress(description: str, unit: str, total: int) -> Iterator[Callable[[Callable[[], None]], None]]:
    """One bar for `total` pieces of work, which draw none of their own; lines are printed above it.

    Yields what ends a piece: it is given how to say so, and counts it.
    """
    with progress_bar(description, unit, total) as bar:
        token = _hidden.set(True)

        def count(say: Callable[[], None]) -> None:
            # Takes the bar away while something else writes to the terminal.
            with bar.external_write_mode():
                say()
            bar.update()

        try:
            yield count
        finally:
            _hidden.reset(token)


@contextmanager
def joint_progress(description: str, unit: str, total: int) -> Iterator[None]:
    """One bar for all that `progress_part` counts within: a stage of several parts shows how far all of it is."""
    with progress_bar(description, unit, total) as bar:
        token = _joint.set(bar)
        try:
            yield
        finally:
            _joint.reset(token)


def progress_part(description: str, unit: str, total: int) -> AbstractContextManager["tqdm[Any]"]:
    """The joint bar, named after this part of its work; a bar of its own where there is none."""
    joint = _joint.get()
    if joint is None:
        return progress_bar(description, unit, total)
    joint.set_description(description, refresh=False)
    # Of the part before.
    joint.set_postfix_str("", refresh=False)
    return nullcontext(joint)
