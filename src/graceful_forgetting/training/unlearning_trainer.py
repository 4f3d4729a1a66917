"""TRL's training loop with unlearning updates and the terms of a baseline in it, and what is kept at its end."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers.trainer_utils import TrainOutput

from graceful_forgetting.baselines.added_loss import AddedLoss
from graceful_forgetting.config import LWFConfig
from graceful_forgetting.posterior.reference import PlainTrainer
from graceful_forgetting.results.arms import method_title
from graceful_forgetting.results.result import LineSearchResult
from graceful_forgetting.runtime import internals
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.distributed import on_main_process
from graceful_forgetting.runtime.progress import UNSEEN, say, without_bars_of_libraries
from graceful_forgetting.training import checks
from graceful_forgetting.training.baseline import BASE_WEIGHTS, BASELINE_FILE
from graceful_forgetting.training.in_memory import load_trained_weights
from graceful_forgetting.training.model_card import TAGS, add_section, card_section
from graceful_forgetting.training.preparation import Preparation
from graceful_forgetting.training.rejected import mark_rejected
from graceful_forgetting.training.stages import Stage
from graceful_forgetting.unlearning.fallback import SAME_ROWS, HeldOutComparison, held_out_loss, keep_better
from graceful_forgetting.unlearning.step import unlearn_if_due
from graceful_forgetting.unlearning.updates import UnlearningUpdates, unlearning_summary

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "unlearning"


@internals.with_state_in_checkpoints
class UnlearningTrainer(PlainTrainer):
    """`PlainTrainer` that unlearns between learning updates, and adds what a baseline adds to their loss.

    Attributes:
        preparation: what the stages before training produced; none: they have not run.
        line_search: what that of the baseline has found; none: it made none.
        held_out: losses of the trained model and of plain fine-tuning; none: not compared.
        _updates: what is unlearned; none: nothing.
        _added_loss: of the baseline; none: there is no baseline.
        _whole_reference: the reference run that this trainer has made, if it is a whole one.
        _base_weights: fingerprint of θ_base; set where there is a baseline.
        _forget_dataset: as `combine_forget_datasets` gives it.
        _presentation: name, paper and tags of what the run does.
        _card_name: name of the model in its card; none: no card was written.
    """

    args: LWFConfig
    preparation: Preparation | None
    line_search: LineSearchResult | None = None
    held_out: HeldOutComparison | None = None
    _updates: UnlearningUpdates | None = None
    _added_loss: AddedLoss | None = None
    _whole_reference: Stage | None = None
    _base_weights: str
    _forget_dataset: Dataset | None
    _presentation: tuple[str, Mapping[str, str], Sequence[str]]
    _card_name: str | None = None

    @property
    def unlearning_enabled(self) -> bool:
        """Whether this run unlearns at all."""
        return checks.unlearns(self.args, self._forget_dataset, self.preparation)

    @property
    def learns_plainly(self) -> bool:
        """Whether this run neither unlearns nor has a baseline: what unlearning does to the loss, the guard judges."""
        return not self.unlearning_enabled and self.args.baseline is None

    @property
    def _title(self) -> str:
        """What this run is called before its bar."""
        return "SFT" if self._presentation[0] == "SFT" else method_title(vars(self.args))

    def _say(self, text: str) -> None:
        """A line for the user on a terminal; for the log alone where it is not wanted, or in a run within another."""
        (logger.info if self.args.disable_tqdm or self._forget_dataset is None else say)(text)

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
            with without_bars_of_libraries():
                self._updates.save(checkpoint / CHECKPOINT_FOLDER, write=self.args.should_save)
        if self._added_loss is not None and self.args.should_save:
            write_json(checkpoint / BASELINE_FILE, {BASE_WEIGHTS: self._base_weights})

    def load_beside_optimizer(self, checkpoint: Path) -> None:
        """Read what `save_beside_optimizer` wrote."""
        if self._updates is not None:
            self._updates.load(checkpoint / CHECKPOINT_FOLDER)

    def _would_repeat(self, preparation: Preparation) -> bool:
        """Whether training would be the reference run once more, and leave nothing else; else says what for."""
        args, reference = self.args, self._whole_reference
        if args.baseline is not None or len(preparation.selected) > 0 or reference is None:
            return False
        updates, passes = reference.detail["learning_updates"], preparation.reference_log[-1]["epoch"]
        steps = args.save_steps if args.save_steps >= 1 else math.ceil(args.save_steps * updates)
        on_the_way = {"steps": steps < updates, "epoch": passes > 1}.get(args.save_strategy.value, False)
        left = [f"checkpoints before its end (save_strategy={args.save_strategy.value!r})"] if on_the_way else []
        if args.eval_strategy != "no":
            left.append(f"evaluations (eval_strategy={args.eval_strategy.value!r})")
        left += ["model in shards"] if self.is_fsdp_enabled else []
        watching = {type(callback) for callback in self.callback_handler.callbacks} - UNSEEN
        left += [f"trace with {kind.__name__}" for kind in watching]
        if left:
            why = f"the reference run has left no {', no '.join(left)}"
            self._say(f"Nothing is unlearned, and plain fine-tuning is trained once more: {why}")
        return not left

    def _take_reference(self) -> TrainOutput:
        """End as the reference run has ended: with its weights, its log, and a checkpoint of them where runs save."""
        assert self._whole_reference is not None
        assert self.preparation is not None
        load_trained_weights(self.model, self._whole_reference.path)
        self.state.global_step = self.state.max_steps = self._whole_reference.detail["learning_updates"]
        self.state.log_history = list(self.preparation.reference_log)
        self.state.epoch = self.state.log_history[-1]["epoch"]
        self._say("Nothing is unlearned: the model has the weights of the reference run, which is plain fine-tuning")
        if self.args.save_strategy != "no":
            internals.save_weights_alone(self)
        metrics = dict(self.state.log_history[-1])
        return TrainOutput(self.state.global_step, metrics["train_loss"], metrics)

    # After training --------------------------------------------------------------------------------------------------

    @property
    def _may_fall_back(self) -> bool:
        return self.args.guard_fallback and self.unlearning_enabled and self.eval_dataset is not None

    @property
    def _compares_with_plain(self) -> bool:
        """Whether the stages before training may give plain fine-tuning to compare with."""
        return self._may_fall_back and not checks.is_scored(self._forget_dataset) and self.optimizer is None

    def _keep_better(self) -> None:
        """Fall back to plain fine-tuning where it has the lower held-out loss, see `guard_fallback`."""
        plain = None if self.preparation is None else self.preparation.plain
        if self._may_fall_back and plain is not None:
            self.held_out = keep_better(self.model, plain, self.held_out_loss)
            losses = (
                f"{self.held_out.loss:.4f} nats per token, that of plain fine-tuning {self.held_out.plain_loss:.4f}"
            )
            if not self.held_out.falls_back:
                self._say(f"The model that unlearned is kept: held-out loss {losses}. {SAME_ROWS}")
            else:
                internals.present_as(self, "SFT", {}, TAGS)
                on_main_process(partial(mark_rejected, Path(self.args.output_dir), self.held_out))
            if self._card_name is not None:
                self.create_model_card(model_name=self._card_name)

    def create_model_card(self, *positional: Any, **keywords: Any) -> None:
        """As `SFTTrainer.create_model_card`, with what was forgotten, the settings of the method and its numbers."""
        super().create_model_card(*positional, **keywords)
        if not self.is_world_process_zero():
            return
        # Written again at the end, when it is known which weights are kept.
        self._card_name = keywords.get("model_name", positional[0] if positional else None) or self._card_name
        samples = 0 if self._updates is None else len(self._updates.samples)
        preparation = self.preparation if self.unlearning_enabled else None
        summary = self.unlearning_summary()
        name = self._presentation[0]
        section = card_section(name, self.args, samples, preparation, self.state.log_history, summary)
        add_section(Path(self.args.output_dir) / "README.md", section)
