"""The reference run: plain fine-tuning of the same model on the learning task.

It gives θ*_L of the formula and is, at the same time, the plain baseline that graceful forgetting is compared with.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from filelock import FileLock
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from graceful_forgetting.config import Settings, changed
from graceful_forgetting.data.turns import check_carried
from graceful_forgetting.posterior.divergence import LearningLoss, NonFiniteLossError
from graceful_forgetting.runtime import internals
from graceful_forgetting.runtime.artifacts import writing
from graceful_forgetting.runtime.checkpoints import begin_run, check_checkpoint, newest_checkpoint, seal_checkpoint
from graceful_forgetting.runtime.distributed import on_main_process, shards_models, whole
from graceful_forgetting.runtime.internals import (
    counted_positions,
    restored_forward,
    unwrapped_copy,
    with_sealed_checkpoints,
    without_telemetry,
)
from graceful_forgetting.runtime.lock import hold
from graceful_forgetting.runtime.progress import StageProgress
from graceful_forgetting.runtime.store import EntryError

logger = logging.getLogger(__name__)


@without_telemetry
@with_sealed_checkpoints
class PlainTrainer(SFTTrainer):
    """TRL's `SFTTrainer` without its telemetry, cheaper in evaluation, with checkpoints that are checked before they
    are resumed, and with an end to a run whose loss is not finite or has diverged.

    TRL reports each construction to the Hub unless told not to; the Trainer filters such losses from its log and goes
    on training.
    """

    _learning_loss: LearningLoss | None = None
    _run = ""
    _lock: FileLock | None = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As `SFTTrainer.compute_loss`; in evaluation, logits are computed at the tokens that count alone."""
        needs_all = return_outputs or self.compute_loss_func is not None or self.label_smoother is not None
        if self.model.training or needs_all:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with counted_positions(self.model, inputs) as counted:
            return super().compute_loss(model, counted, return_outputs, num_items_in_batch)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, packing: bool, *others: Any) -> Any:
        """As `SFTTrainer._prepare_dataset` (TRL 1.16), which drops rows, and calls of tools, without a word.

        Raises:
            ValueError: `max_length` leaves no row, or the chat template leaves out a call of a tool.
        """
        if isinstance(dataset, Dataset) and isinstance(processing_class, PreTrainedTokenizerBase) and not others[0]:
            check_carried(dataset, processing_class, f"{others[-1]}_dataset")
        prepared = super()._prepare_dataset(dataset, processing_class, args, packing, *others)
        if isinstance(dataset, Dataset) and not packing and len(prepared) < len(dataset):
            dropped = (
                f"max_length={args.max_length} cuts off all that is learned of {len(dataset) - len(prepared)} of the "
                f"{len(dataset)} rows of the {others[-1]} data set"
            )
            fix = "Raise it (up to the model's context), or shorten the prompts"
            if len(prepared) == 0:
                raise ValueError(f"{dropped}: none is left. {fix}")
            logger.warning("%s; they are dropped. %s.", dropped, fix)
        return prepared

    def resumed(self, resume_from_checkpoint: str | Path | bool | None) -> Path | None:
        """The checkpoint that `train` with this argument goes on from; True: the newest that is intact.

        Raises:
            ValueError: the one that is named is damaged, or there are some and none can be used.
        """
        return on_main_process(partial(self._resumed, resume_from_checkpoint))

    def _resumed(self, named: str | Path | bool | None) -> Path | None:
        if named is None or named is False:
            return None
        if named is True:
            newest = newest_checkpoint(self.args.output_dir)
            if newest is None and get_last_checkpoint(self.args.output_dir) is not None:
                raise ValueError(
                    f"resume_from_checkpoint=True: no checkpoint in {self.args.output_dir} can be used; leave the "
                    "argument out to start anew"
                )
            return newest
        try:
            check_checkpoint(Path(named))
        except EntryError as error:
            raise ValueError(
                f"resume_from_checkpoint={str(named)!r} cannot be used, since {error}; True takes the newest "
                "checkpoint that is intact"
            ) from error
        return Path(named)

    def train(self, resume_from_checkpoint: str | bool | None = None, *positional: Any, **keywords: Any) -> Any:
        """As `SFTTrainer.train`; raises as `resumed`, `ValueError` where another process saves in `output_dir`, and
        `DivergedError` where the run `learns_plainly`."""
        checkpoint = self.resumed(resume_from_checkpoint)
        if self.learns_plainly and self._learning_loss is None:
            self._learning_loss = LearningLoss(self.model.config.get_text_config().vocab_size)
            self.add_callback(self._learning_loss)
        if self.args.save_strategy != SaveStrategy.NO:
            self._run = on_main_process(partial(self._begin, checkpoint))
        where = resume_from_checkpoint if checkpoint is None else str(checkpoint)
        try:
            return super().train(where, *positional, **keywords)
        finally:
            self._lock = None

    @property
    def learns_plainly(self) -> bool:
        """Whether this run does nothing but learn."""
        return True

    def _begin(self, checkpoint: Path | None) -> str:
        self._lock = hold(Path(self.args.output_dir))
        return begin_run(Path(self.args.output_dir), checkpoint)

    @contextmanager
    def sealing(self, checkpoint: Path) -> Iterator[None]:
        """Around the writing of a checkpoint: it is sealed when every process has written its part of it.

        Raises:
            DiskError: it could not be written.
        """
        with writing(checkpoint):
            yield
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                # A signal makes a run save that was not to.
                self._run = self._run or begin_run(checkpoint.parent, None)
                seal_checkpoint(checkpoint, self._run)

    def get_batch_samples(self, *positional: Any, **keywords: Any) -> Any:
        """As `SFTTrainer.get_batch_samples`; nothing where a resumed run is at its end, which the Trainer does not see
        before another update."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return [], None
        return super().get_batch_samples(*positional, **keywords)

    def training_step(self, *positional: Any, **keywords: Any) -> Tensor:
        """As `SFTTrainer.training_step`; a loss that is not finite ends the run before it reaches the weights.

        Raises:
            NonFiniteLossError: names the learning update.
        """
        loss = super().training_step(*positional, **keywords)
        if not torch.isfinite(loss):
            raise NonFiniteLossError(
                f"the learning loss is {loss.item()} at learning update {self.state.global_step + 1}; checkpoints "
                f"saved so far are intact. Lower learning_rate ({self.args.learning_rate:g}) or look at the batch"
            )
        if self._learning_loss is not None:
            self._learning_loss.note(loss.item())
        return loss


class StopAfter(TrainerCallback):
    """Ends a run after a share of its updates, at least one."""

    def __init__(self, fraction: float):
        self.fraction = fraction

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        del args, kwargs
        if state.global_step >= max(1, round(self.fraction * state.max_steps)):
            control.should_training_stop = True
        return control

    # A run may be resumed from its end.
    on_train_begin = on_step_end


def stopping_after(fraction: float) -> list[TrainerCallback]:
    """Callbacks that end a run after this share of its updates, at least one; none for 1."""
    return [] if fraction == 1 else [StopAfter(fraction)]


def name_stage(trainer: SFTTrainer, label: str, with_lines: bool = False) -> None:
    """Put the stage's name before the bar of a run, if it shows one; call it when the run has all its callbacks.

    The first name stays.

    Args:
        trainer: before it trains.
        label: name of the stage.
        with_lines: whether the run's logs are lines as well. Those of a run within a run would be taken for its own.
    """
    callbacks = trainer.callback_handler.callbacks
    if any(isinstance(each, StageProgress) for each in callbacks):
        return
    share = min((each.fraction for each in callbacks if isinstance(each, StopAfter)), default=1.0)
    shown = trainer.pop_callback(ProgressCallback)
    if not with_lines:
        trainer.remove_callback(PrinterCallback)
        shown = trainer.pop_callback(internals.progress_callback()) or shown
    if shown is not None:
        trainer.add_callback(StageProgress(label, share, with_lines))


def reference_args(args: Settings, output_dir: str | Path) -> Settings:
    """The settings of the reference run: those of `args` for learning, with nothing saved, evaluated or reported."""
    return changed(
        args,
        output_dir=str(output_dir),
        save_strategy=SaveStrategy.NO,
        eval_strategy=IntervalStrategy.NO,
        do_eval=False,
        load_best_model_at_end=False,
        metric_for_best_model=None,
        push_to_hub=False,
        report_to=[],
        # Without a device to copy to, pinning does nothing but warn.
        dataloader_pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
        # The rows arrive prepared, in the order of the main run, and so does what collates them.
        dataset_kwargs={**(args.dataset_kwargs or {}), "skip_prepare_dataset": True},
        shuffle_dataset=False,
        packing=False,
        padding_free=False,
        assistant_only_loss=False,
        chat_template_path=None,
        eos_token=None,
    )


def train_reference(
    model: PreTrainedModel,
    args: SFTConfig,
    train_dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase,
    label: str = "reference",
    **trainer_arguments: Any,
) -> tuple[PlainTrainer, list[dict[str, float]]]:
    """Fine-tune `model` in place on prepared rows (`input_ids`, `labels`) with TRL's `SFTTrainer`.

    `label` names the run before its bar. `trainer_arguments` go to the trainer; rows that are packed need the
    `data_collator` of their own trainer.

    Where trainers shard their model, a copy is sharded and trained, and its weights come back whole into `model`: what
    FSDP has sharded cannot be used as a plain model again.

    Returns:
        the trainer, whose `model` is at θ*_L, and its log, one entry per logged step.
    """
    trained = unwrapped_copy(model) if shards_models() else model
    trainer = PlainTrainer(
        model=trained,
        args=args,
        train_dataset=train_dataset,
        processing_class=processing_class,
        **trainer_arguments,
    )
    name_stage(trainer, label)
    trainer.train()
    if trained is not model:
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if parameter.requires_grad:
                    parameters[name].copy_(whole(parameter))
    return trainer, trainer.state.log_history


@contextmanager
def restored_weights(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Give the model back its trainable weights, its buffers, its mode and its `forward` when the block ends."""
    training = model.training
    kept: dict[str, Tensor] = {
        name: tensor.detach().clone().cpu()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
    }
    try:
        with restored_forward(model):
            yield
    finally:
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if name in kept:
                    tensor.copy_(kept[name])
        for parameter in model.parameters():
            parameter.grad = None
        model.train(training)
