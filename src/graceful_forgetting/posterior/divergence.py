"""When plain fine-tuning has diverged: the learning loss says so, where it is still finite."""

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

_SMOOTHING = 0.9
# Of the loss of guessing all tokens alike, log V. Far above it, a model is wrong with certainty, and gets no better.
_EXPLODED = 3.0
_LIKE_GUESSING = 0.98
# Nats per token. A model that knew nothing at the start has not diverged where it knows nothing at the end.
_WORSE = 1.0


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite. The last checkpoint is not touched."""


class DivergedError(RuntimeError):
    """Training has destroyed the model. No checkpoint was saved since."""


class LearningLoss(TrainerCallback, ExportableState):
    """Watches the loss of the learning updates, in nats per token, and ends a run that has diverged.

    A run ends before a checkpoint is saved when its smoothed loss (exponential mean, weight 0.9 on the past) is above
    3 log V, for a vocabulary of V tokens. At its end it has diverged when it is no better than guessing, log V, and one
    nat per token worse than at its first update, which measures the base model.
    """

    def __init__(self, vocabulary: int) -> None:
        self._guessing = math.log(vocabulary)
        self._first: float | None = None
        self._update = self._mean = self._weight = 0.0

    def note(self, loss: float) -> None:
        """Take the loss of one micro-batch, of which those of an update are summed."""
        self._update += loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the first loss of a run that is continued."""
        del args, control, kwargs
        self._first, self._update, self._mean, self._weight = None, 0.0, 0.0, 0.0
        known = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step > 0 and known:
            self._first = known["attributes"]["first"]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the update. Raises `DivergedError` where the loss has exploded."""
        del control, kwargs
        if self._first is None and state.global_step == 1:
            self._first = self._update
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * self._update
        self._weight = _SMOOTHING * self._weight + (1 - _SMOOTHING)
        self._update = 0.0
        if self._loss > _EXPLODED * max(self._guessing, self._first or 0.0):
            self._end(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises `DivergedError` where the model is no better than guessing, and was."""
        del control, kwargs
        # What ends early, as most reference runs do, may have been on its way.
        if self._first is None or self._weight == 0 or state.global_step < state.max_steps:
            return
        if self._loss > max(_LIKE_GUESSING * self._guessing, self._first + _WORSE):
            self._end(args, state)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as `ExportableState` has it."""
        return {"args": {}, "attributes": {"first": self._first}}

    @property
    def _loss(self) -> float:
        return self._mean / self._weight

    def _end(self, args: TrainingArguments, state: TrainerState) -> None:
        began = "" if self._first is None else f" from {self._first:.3g}"
        raise DivergedError(
            f"plain fine-tuning diverged: the learning loss rose{began} to {self._loss:.3g} nats per token by update "
            f"{state.global_step}, and guessing has {self._guessing:.3g}. Lower learning_rate "
            f"({args.learning_rate:g}); checkpoints from before are continued only by the same settings"
        )
