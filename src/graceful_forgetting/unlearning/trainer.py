"""Fine-tuning with unlearning updates in between: the part of `LWFTrainer` that acts during training."""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graceful_forgetting.baselines.trainer import BaselineTrainer
from graceful_forgetting.config.unlearning import UNLEARN_MAX_GRAD_NORM
from graceful_forgetting.data import IGNORE_INDEX, collate
from graceful_forgetting.posterior.reference import NonFiniteLossError
from graceful_forgetting.runtime.distributed import whole
from graceful_forgetting.runtime.rng import preserved_rng
from graceful_forgetting.unlearning.fallback import HeldOutComparison, keep_better
from graceful_forgetting.unlearning.guard import Guard
from graceful_forgetting.unlearning.objectives import Need, UnlearningBatch
from graceful_forgetting.unlearning.schedule import updates_due
from graceful_forgetting.unlearning.updates import MicroBatch, UnlearningUpdates

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "unlearning"


class UnlearningTrainer(BaselineTrainer):
    """`BaselineTrainer` that takes the unlearning updates that `_updates`, if any, describes.

    They do not count in `max_steps` or the learning-rate schedule, and neither change the order of the learning batches
    nor consume any random numbers of the run. Their state is in every checkpoint.
    """

    _updates: UnlearningUpdates | None = None
    held_out: HeldOutComparison | None = None

    def train(self, *positional: Any, **keywords: Any) -> Any:
        """As `SFTTrainer.train`."""
        self._pending_losses: list[Tensor] = []
        self._stop_announced = False
        return super().train(*positional, **keywords)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Fetch the micro-batches of the next learning update; the unlearning update that precedes it happens here.

        At this point of the Trainer's loop gradients are empty and no `no_sync` context is open (there is one around
        `training_step` when gradients are accumulated), so that clipping and DDP work as for any update.
        """
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._updates is not None and batches[0]:
            self._observe_learning_loss()
            if not self._updates.guard.stopped:
                self._unlearn_if_due(self._updates)
        return batches

    def _unlearn_if_due(self, updates: UnlearningUpdates) -> None:
        args, step = self.args, self.state.global_step
        if len(updates.samples) == 0:
            return
        due = updates_due(args.unlearn_schedule, step, self.state.max_steps, args.unlearn_every, args.seed)
        for _ in range(due):
            with preserved_rng(seed=args.seed + updates.count):
                self._unlearn(updates)

    def _unlearn(self, updates: UnlearningUpdates) -> None:
        """One unlearning update; with schedule 'joint', its gradient, left for the learning update to add to."""
        model, joint = self.model_wrapped, self.args.unlearn_schedule == "joint"
        model.train()
        micro_batches = updates.next_micro_batches(self.args.process_index, self.args.world_size)
        rows = sum(len(batch.forget) for batch in micro_batches)
        scale = (self.args.unlearn_weight if joint else 1.0) / rows
        loss_sum = active_sum = 0.0
        for number, micro in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with self.accelerator.no_sync(model) if not last else torch.enable_grad():
                batch, retained_losses = self._unlearning_batch(model, micro, updates.objective.needs)
                weights = micro.weights.to(batch.log_probs.device)
                total = (weights * updates.objective.values(batch)).sum()
                total = total + self.args.unlearn_retain_weight * retained_losses.sum()
                self.accelerator.backward(scale * total)
            loss_sum += self._mean_over_processes(batch.losses.detach().sum())
            active_sum += self._mean_over_processes(updates.objective.active(batch).sum())
        self._require_finite("loss", loss_sum)
        grad_norm = 0.0
        if active_sum > 0:
            grad_norm = self._clip(math.inf if joint else UNLEARN_MAX_GRAD_NORM)
            if not joint:
                self._step(updates, active_sum / rows)
        if not joint or active_sum == 0:
            model.zero_grad()
        updates.count += 1
        updates.log.add(loss_sum / rows, active_sum / rows, grad_norm)

    def _clip(self, max_norm: float) -> float:
        assert self._updates is not None
        norm = whole(torch.nn.utils.clip_grad_norm_(self._updates.parameters, max_norm)).item()
        self._require_finite("gradient norm", norm)
        return norm

    def _step(self, updates: UnlearningUpdates, active: float) -> None:
        """A step of the unlearning optimizer, shorter by the share of the samples that is active."""
        scale = active
        # Before the first learning update nothing has decayed yet, and a warm-up would leave a rate of 0.
        if self.args.unlearn_schedule != "early":
            # The rate of an optimizer that the caller has made need not be that of the settings.
            peak = self.optimizer.param_groups[0].get("initial_lr", self.args.learning_rate)
            scale *= self._get_learning_rate() / peak
        for group in updates.optimizer.param_groups:
            group["lr"] = updates.peak_learning_rate * scale
        updates.optimizer.step()

    def _require_finite(self, what: str, value: float) -> None:
        assert self._updates is not None
        if not math.isfinite(value):
            self.model_wrapped.zero_grad()
            raise NonFiniteLossError(
                f"the unlearning {what} is {value} before learning update {self.state.global_step + 1} (unlearning "
                f"update {self._updates.count + 1}); checkpoints saved so far are intact. Lower unlearn_learning_rate "
                f"({self._updates.peak_learning_rate:g}), or use unlearn_objective='bounded_tokens'"
            )

    def _unlearning_batch(
        self, model: nn.Module, micro: MicroBatch, needs: frozenset[Need]
    ) -> tuple[UnlearningBatch, Tensor]:
        """What the objective reads, and L of the retained rows, (retained,), from one forward pass of all rows.

        One pass, since DDP expects one before each backward pass.
        """
        rows = [*micro.forget, *micro.learning, *micro.retained]
        inputs = self._prepare_inputs(collate(rows, self.processing_class.pad_token_id))
        number, logits = len(micro.forget), None
        with self.compute_loss_context_manager(), self.maybe_activation_offload_context:
            if Need.LOGITS in needs:
                labels = inputs.pop("labels")[:, 1:]
                mask = labels != IGNORE_INDEX
                logits = model(**inputs, use_cache=False).logits[:, :-1]
                tokens = labels.clamp(min=0).unsqueeze(-1)
                log_probs = logits.float().log_softmax(dim=-1).gather(-1, tokens).squeeze(-1).masked_fill(~mask, 0)
                logits = logits[:number]
            else:
                outputs = model(**inputs, fused_lm_head=True)
                log_probs, mask = outputs.log_probs.float(), outputs.label_mask
        losses = -log_probs.sum(dim=1) / mask.sum(dim=1)
        base_losses = None if micro.base_losses is None else micro.base_losses.to(losses.device)
        learning_losses = losses[number : number + len(micro.learning)] if micro.learning else None
        batch = UnlearningBatch(log_probs[:number], mask[:number], logits, base_losses, learning_losses)
        return batch, losses[number + len(micro.learning) :]

    def _mean_over_processes(self, value: Tensor) -> float:
        return self.accelerator.gather(value).mean().item()

    def training_step(self, *positional: Any, **keywords: Any) -> Tensor:
        """As `SFTTrainer.training_step`; keeps the loss for the guard. Raises `NonFiniteLossError`."""
        loss = super().training_step(*positional, **keywords)
        if self._updates is not None:
            self._pending_losses.append(loss)
        return loss

    def _observe_learning_loss(self) -> None:
        """Hand the loss of the last learning update, the sum over its micro-batches, to the guard."""
        if self._pending_losses and self._updates is not None:
            loss = self._mean_over_processes(torch.stack(self._pending_losses).sum())
            self._pending_losses.clear()
            self._updates.guard.observe_learning_loss(loss, self.state.global_step)
            self._announce_stop()

    def _announce_stop(self) -> None:
        guard = self._updates.guard if self._updates is not None else None
        if guard is not None and guard.stopped and not self._stop_announced:
            self._stop_announced = True
            logger.warning(f"Unlearning stopped at learning update {guard.step}: {guard.reason}")

    def evaluate(self, *positional: Any, **keywords: Any) -> dict[str, float]:
        """As `SFTTrainer.evaluate`; during training, the guard sees the loss."""
        metrics = super().evaluate(*positional, **keywords)
        if self._updates is not None and self.is_in_train:
            for name, value in metrics.items():
                if name.endswith("_loss"):
                    self._updates.guard.observe_held_out_loss(name, value, self.state.global_step)
            self._announce_stop()
        return metrics

    def keep_better(self, plain: Mapping[str, Tensor]) -> None:
        """Leave in the model the better weights, by held-out loss: those it has, or `plain`; says so if the latter."""
        self.held_out = compared = keep_better(self.model, plain, self.held_out_loss)
        if compared.falls_back:
            logger.warning(
                f"Forgetting did not help: held-out loss {compared.loss:.4f} nats per token, that of plain fine-tuning "
                f"{compared.plain_loss:.4f}. The model has the weights of plain fine-tuning (guard_fallback)"
            )

    def held_out_loss(self) -> float:
        """Loss on `eval_dataset`, the mean over its sets, in nats per token; nothing is logged, no callback called."""
        names = list(self.eval_dataset) if isinstance(self.eval_dataset, dict) else [None]
        losses = [
            self.evaluation_loop(
                self.get_eval_dataloader(name), "Held-out loss", prediction_loss_only=True, metric_key_prefix="held_out"
            ).metrics["held_out_loss"]
            for name in names
        ]
        # TRL's own measurements of these passes would be averaged into the next evaluation.
        self._metrics["eval"].clear()
        return float(sum(losses) / len(losses))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `SFTTrainer.log`, with the measurements of unlearning beside those of learning."""
        if self._updates is not None and "loss" in logs:
            logs.update(self._updates.log.drain())
            logs["unlearn_updates"] = self._updates.count
        super().log(logs, start_time)

    def unlearning_summary(self) -> dict[str, Any]:
        """Number of unlearning updates so far, and what the guard did; JSON types.

        Of the guard: whether, when and why it ended unlearning; the held-out losses of the trained model and of plain
        fine-tuning (null where they were not compared); and whether the model `fell_back` to the latter.
        """
        guard = self._updates.guard if self._updates is not None else Guard(margin=None)
        compared = self.held_out
        return {
            "updates": 0 if self._updates is None else self._updates.count,
            "guard": {
                "stopped": guard.stopped,
                "reason": guard.reason,
                "step": guard.step,
                "fell_back": compared is not None and compared.falls_back,
                "held_out_loss": None if compared is None else compared.loss,
                "plain_held_out_loss": None if compared is None else compared.plain_loss,
            },
        }

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._updates is not None:
            # On every process: both gather.
            self._observe_learning_loss()
            self._updates.save(Path(output_dir) / CHECKPOINT_FOLDER, write=self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._updates is not None:
            self._updates.load(Path(checkpoint) / CHECKPOINT_FOLDER)
