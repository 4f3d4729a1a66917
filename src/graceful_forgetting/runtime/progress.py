"""Progress bars: rate and time left, on a terminal only, by the first process only, gone when their work is done."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from datasets.utils import logging as datasets_logging
from tqdm.auto import tqdm
from transformers import (
    DefaultFlowCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging

from graceful_forgetting.runtime.distributed import process_index

logger = logging.getLogger(__name__)

# Seconds after which a bar is drawn of work that most often takes less.
DELAY = 1
_BEGINS = " ..."

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


def say(text: str) -> None:
    """A line for the user, above any bar; for the log alone where no bar may be drawn or there is no terminal."""
    if sys.stderr.isatty() and progress_allowed():
        tqdm.write(text, file=sys.stderr)
    else:
        logger.info(text)


@contextmanager
def without_bars_of_libraries() -> Iterator[None]:
    """No bars of `datasets` and transformers (rows and weights that are written or read) inside the block."""
    rows, weights = datasets_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()
    datasets_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if rows:
            datasets_logging.enable_progress_bar()
        if weights:
            transformers_logging.enable_progress_bar()


def close_evaluation_bars(trainer: Trainer) -> None:
    """Take away the bar of an evaluation that ended without its callbacks."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, ProgressCallback) and callback.prediction_bar is not None:
            callback.prediction_bar.close()
            callback.prediction_bar = None


class StageProgress(ProgressCallback):
    """The Trainer's bar, with the name of the stage before it and the losses behind it.

    Args:
        label: name of the stage.
        share: of the learning updates after which the run ends.
        with_lines: whether each log is a line as well, as of `ProgressCallback`.
    """

    training_bar: "tqdm[Any] | None"
    prediction_bar: "tqdm[Any] | None"

    def __init__(self, label: str, share: float = 1.0, with_lines: bool = False):
        super().__init__()
        self.label = label
        self.share = share
        self.with_lines = with_lines

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw the bar."""
        del args, control, kwargs
        if state.is_world_process_zero:
            total = max(1, round(self.share * state.max_steps))
            self.training_bar = progress_bar(self.label, "updates", total)
        self.current_step = 0

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Draw a bar of the evaluation."""
        if state.is_world_process_zero and self.prediction_bar is None and isinstance(eval_dataloader, Sized):
            self.prediction_bar = progress_bar(f"{self.label}: held-out rows", "batches", len(eval_dataloader))
        super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the losses behind the bar."""
        if self.with_lines:
            super().on_log(args, state, control, logs, **kwargs)
        shown = {k: f"{float(v):.3f}" for k, v in (logs or {}).items() if k in ("loss", "unlearn_loss", "eval_loss")}
        if state.is_world_process_zero and self.training_bar is not None and shown:
            self.training_bar.set_postfix(shown)


# Callbacks of a trainer that nobody has asked for.
UNSEEN = {DefaultFlowCallback, PrinterCallback, ProgressCallback, StageProgress}


class CountedBar:
    """A bar over pieces of work that take minutes: it says which is under way."""

    def __init__(self, bar: "tqdm[Any]"):
        self._bar = bar

    def count(self, announce: Callable[[], None]) -> None:
        """A piece has ended: `announce` says so above the bar, and it is counted."""
        # Takes the bar away while something else writes to the terminal.
        with self._bar.external_write_mode():
            announce()
        self._bar.update()

    def show(self, text: str) -> None:
        """What is under way: a line that ends in dots, as that of a stage that begins. Others are not shown.

        Called again with the same it brings the time up to date.
        """
        if text.endswith(_BEGINS):
            self._bar.set_postfix_str(text.removesuffix(_BEGINS))


@contextmanager
def counted_progress(description: str, unit: str, total: int) -> Iterator[CountedBar]:
    """One bar for `total` pieces of work, which draw none of their own."""
    with progress_bar(description, unit, total) as bar:
        token = _hidden.set(True)
        try:
            yield CountedBar(bar)
        finally:
            _hidden.reset(token)


@contextmanager
def joint_progress(description: str, unit: str, total: int, **settings: Any) -> Iterator[None]:
    """One bar for all that `progress_part` and `advance` count within: a stage of several parts shows how far all of
    it is. `settings` go to tqdm."""
    with progress_bar(description, unit, total, **settings) as bar:
        token = _joint.set(bar)
        try:
            yield
        finally:
            _joint.reset(token)


def advance(amount: int) -> None:
    """Count within the joint bar, from a function that cannot hold a bar, such as one that `datasets` hashes."""
    bar = _joint.get()
    if bar is not None:
        bar.update(amount)


def progress_part(description: str, unit: str, total: int) -> AbstractContextManager["tqdm[Any]"]:
    """The joint bar, named after this part of its work; a bar of its own where there is none."""
    joint = _joint.get()
    if joint is None:
        return progress_bar(description, unit, total)
    joint.set_description(description, refresh=False)
    # Of the part before.
    joint.set_postfix_str("", refresh=False)
    return nullcontext(joint)
