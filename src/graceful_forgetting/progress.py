"""Progress bars: rate and time left, on a terminal only, by the first process only, gone when their work is done."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm

from graceful_forgetting.distributed import process_index

_joint: ContextVar["tqdm[Any] | None"] = ContextVar("joint", default=None)


def progress_allowed() -> bool:
    """Whether this process may draw bars, terminal or not: the first process, without `TQDM_DISABLE` (tqdm's own)."""
    return process_index() == 0 and os.environ.get("TQDM_DISABLE", "") in ("", "0")


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
