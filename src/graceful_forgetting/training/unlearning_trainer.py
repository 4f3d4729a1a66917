"""TRL's training loop with unlearning updates and the terms of a baseline in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graceful_forgetting.baselines.added_loss import AddedLoss
from graceful_forgetting.config import LWFConfig
from graceful_forgetting.posterior.reference import PlainTrainer
from graceful_forgetting.runtime import internals
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.training.baseline import BASE_WEIGHTS, BASELINE_FILE
from graceful_forgetting.unlearning.fallback import HeldOutComparison, held_out_loss
from graceful_forgetting.unlearning.step import unlearn_if_due
from graceful_forgetting.unlearning.updates import UnlearningUpdates, unlearning_summary

CHECKPOINT_FOLDER = "unlearning"


@internals.with_state_in_checkpoints
class UnlearningTrainer(PlainTrainer):
    """`PlainTrainer` that unlearns between learning updates, and adds what a baseline adds to their loss.

    Attributes:
        held_out: losses of the trained model and of plain fine-tuning; none: not compared.
        _updates: what is unlearned; none: nothing.
        _added_loss: of the baseline; none: there is no baseline.
        _base_weights: fingerprint of θ_base; set where there is a baseline.
    """

    args: LWFConfig
    held_out: HeldOutComparison | None = None
    _updates: UnlearningUpdates | None = None
    _added_loss: AddedLoss | None = None
    _base_weights: str

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Fetch the micro-batches of the next learning update; the unlearning updates that precede it happen here.

        At this point of the Trainer's loop gradients are empty and no `no_sync` context is open (there is one around
        `training_step` when gradients are accumulated), so that clipping and DDP work as for any update.
        """
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._updates is not None and batches[0]:
            self._updates.observe_learning_loss(self.accelerator, self.state.global_step)
            if not self._updates.guard.stopped:
                unlearn_if_due(self, self._updates)
        return batches

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As `SFTTrainer.compute_loss`, in training with the terms of the baseline."""
        if self._added_loss is None or not self.model.training or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with internals.watched_pass(self.model) as seen:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        progress = self.state.global_step / self.state.max_steps
        term = self._added_loss.of_pass(seen, inputs, progress, internals.loss_scale(self, num_items_in_batch))
        return loss if term is None else loss + term

    def training_step(self, *positional: Any, **keywords: Any) -> Tensor:
        """As `SFTTrainer.training_step`; returns the loss of learning alone. Raises `NonFiniteLossError`."""
        loss = super().training_step(*positional, **keywords)
        if self._added_loss is not None:
            loss = self._added_loss.without(loss, self.state.global_step)
        if self._updates is not None:
            self._updates.note_learning_loss(loss)
        return loss

    def evaluate(self, *positional: Any, **keywords: Any) -> dict[str, float]:
        """As `SFTTrainer.evaluate`; during training, the guard sees the loss."""
        metrics = super().evaluate(*positional, **keywords)
        if self._updates is not None and self.is_in_train:
            self._updates.observe_held_out_losses(metrics, self.state.global_step)
        return metrics

    def held_out_loss(self) -> float:
        """Loss on `eval_dataset`, the mean over its sets, in nats per token; nothing is logged, no callback called."""
        return held_out_loss(self)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `SFTTrainer.log`, with the measurements of unlearning and of the baseline beside those of learning."""
        if self._updates is not None and "loss" in logs:
            logs |= self._updates.log.drain() | {"unlearn_updates": self._updates.count}
        if self._added_loss is not None and "loss" in logs:
            logs |= self._added_loss.drain(self.state.global_step, self.accelerator)
        super().log(logs, start_time)

    def unlearning_summary(self) -> dict[str, Any]:
        """Number of unlearning updates so far, and what the guard did; JSON types.

        Of the guard: whether, when and why it ended unlearning; the held-out losses of the trained model and of plain
        fine-tuning (null where they were not compared); and whether the model `fell_back` to the latter.
        """
        return unlearning_summary(self._updates, self.held_out)

    def save_beside_optimizer(self, checkpoint: Path) -> None:
        """Write what a resumed run needs beside the Trainer's own state; every process must call."""
        if self._updates is not None:
            self._updates.observe_learning_loss(self.accelerator, self.state.global_step)
            self._updates.save(checkpoint / CHECKPOINT_FOLDER, write=self.args.should_save)
        if self._added_loss is not None and self.args.should_save:
            write_json(checkpoint / BASELINE_FILE, {BASE_WEIGHTS: self._base_weights})

    def load_beside_optimizer(self, checkpoint: Path) -> None:
        """Read what `save_beside_optimizer` wrote."""
        if self._updates is not None:
            self._updates.load(checkpoint / CHECKPOINT_FOLDER)
