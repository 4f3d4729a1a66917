"""The reference run: plain fine-tuning of the same model on the learning task.

It gives θ*_L of the formula and is, at the same time, the plain baseline that graceful forgetting is compared with.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
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
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from trl import SFTConfig, SFTTrainer

from graceful_forgetting.config import Settings, changed
from graceful_forgetting.data.turns import check_carried
from graceful_forgetting.runtime import internals
from graceful_forgetting.runtime.distributed import shards_models, whole
from graceful_forgetting.runtime.internals import restored_forward, unwrapped_copy, without_telemetry
from graceful_forgetting.runtime.progress import StageProgress

logger = logging.getLogger(__name__)


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite. The last checkpoint is not touched."""


@without_telemetry
class PlainTrainer(SFTTrainer):
    """TRL's `SFTTrainer` without its telemetry, and with an end to a run whose loss is not finite.

    TRL reports each construction to the Hub unless told not to; the Trainer filters such losses from its log and goes
    on training.
    """

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
