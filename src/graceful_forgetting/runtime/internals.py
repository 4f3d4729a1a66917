"""Every touch of what TRL, transformers and accelerate do not promise to keep: one small function each.

Each function names the versions that it was written for, why no public way does, and when it can go. A new version that
breaks something is mended here. The lowest rooms need some of them, so this file imports no room.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
import transformers.trainer
from accelerate.utils.operations import ConvertOutputsToFp32
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    Cache,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.cache_utils import DynamicLayer
from transformers.generation import GenerateDecoderOnlyOutput
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from trl.chat_template_utils import has_generation_markers

if TYPE_CHECKING:
    from trl import SFTTrainer

T = TypeVar("T", bound="SFTTrainer")
Model = TypeVar("Model", bound=nn.Module)


# Trainers: what a class of ours is -----------------------------------------------------------------------------------


def without_telemetry(trainer_class: type[T]) -> type[T]:
    """Class decorator: the trainer does not report its construction to the Hub.

    For TRL 1.16, which reports unless an environment variable is set. Can go when TRL asks first or has a setting.
    """

    def send_nothing(self: T) -> None:
        """Send nothing: the network is only used for models and data that the user names."""
        del self

    trainer_class._send_telemetry = send_nothing
    return trainer_class


def present_as(trainer: Any, name: str, paper: Mapping[str, str], tags: Sequence[str]) -> None:
    """How TRL names this trainer, its paper (`title`, `id` on arXiv, `citation`; or nothing) and its tags.

    For TRL 1.16, whose trainers say so in private class attributes. Can go when `create_model_card` takes them.
    """
    trainer._name, trainer._paper, trainer._tag_names = name, dict(paper), list(tags)


class HoldsState(Protocol):
    """A trainer with state of its own beside that of the optimizer."""

    def save_beside_optimizer(self, checkpoint: Path) -> None: ...
    def load_beside_optimizer(self, checkpoint: Path) -> None: ...


def with_state_in_checkpoints(trainer_class: type[T]) -> type[T]:
    """Class decorator: the trainer, which is a `HoldsState`, saves and loads its state right after the optimizer's.

    For transformers 5.19 to 5.24. A callback's `on_save` comes after `trainer_state.json`, by which a checkpoint counts
    as complete, and after older ones were removed; nothing public is called when a checkpoint is loaded
    (https://github.com/huggingface/transformers/issues/9216). Can go when callbacks can write into a checkpoint and
    read from it.
    """
    save, load = trainer_class._save_optimizer_and_scheduler, trainer_class._load_optimizer_and_scheduler

    def save_all(self: Any, output_dir: str) -> None:
        save(self, output_dir)
        self.save_beside_optimizer(Path(output_dir))

    def load_all(self: Any, checkpoint: str | None) -> None:
        load(self, checkpoint)
        if checkpoint is not None:
            self.load_beside_optimizer(Path(checkpoint))

    trainer_class._save_optimizer_and_scheduler, trainer_class._load_optimizer_and_scheduler = save_all, load_all
    return trainer_class


class SealsCheckpoints(Protocol):
    """A trainer that does something around the writing of each checkpoint."""

    def sealing(self, checkpoint: Path) -> AbstractContextManager[None]: ...


def with_sealed_checkpoints(trainer_class: type[T]) -> type[T]:
    """Class decorator: the trainer, which is a `SealsCheckpoints`, removes older checkpoints when a new one is sealed.

    For transformers 5.19 to 5.24, where the removal comes before anything public is called (`on_save`), so that a kill
    in between would leave no whole checkpoint. Can go when `on_save` comes first.
    """
    save = trainer_class._save_checkpoint

    def save_sealed(self: Any, model: nn.Module, trial: Any) -> None:
        folder = self._get_output_dir(trial=trial)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with self.sealing(Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"):
                save(self, model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(folder, limit, self.state.best_model_checkpoint, use_mtime=True)

    trainer_class._save_checkpoint = save_sealed
    return trainer_class


def save_weights_alone(trainer: "SFTTrainer") -> None:
    """Write the checkpoint of the update that the trainer's state names, without what a run would go on from.

    For transformers 5.19 to 5.24, which save checkpoints in training alone. Can go when one can be asked for.
    """
    whole, trainer.args.save_only_model = trainer.args.save_only_model, True
    try:
        trainer._save_checkpoint(trainer.model, None)
    finally:
        trainer.args.save_only_model = whole


def progress_callback() -> type[TrainerCallback]:
    """The callback by which the Trainer shows progress here: a bar, or a table in a notebook.

    For transformers 5.19 to 5.24, where it is a variable of a module. Can go when the Trainer can be asked for it.
    """
    return transformers.trainer.DEFAULT_PROGRESS_CALLBACK


def without_adapter(model: nn.Module) -> Any:
    """The model under its adapter; itself where it has none."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


# Trainers: what a pass needs -----------------------------------------------------------------------------------------


def prepared_inputs(trainer: Trainer, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch as the trainer would give it to its model: on its device.

    For transformers 5.19 to 5.24. Can go when the Trainer has a public name for it.
    """
    return trainer._prepare_inputs(batch)


def learning_rate(trainer: Trainer) -> float:
    """The rate of the next learning update.

    For transformers 5.19 to 5.24: it differs by kind of scheduler, which `lr_scheduler.get_last_lr()` does not know.
    Can go when the Trainer has a public name for it.
    """
    return trainer._get_learning_rate()


@contextmanager
def forward_context(trainer: "SFTTrainer") -> Iterator[None]:
    """Around a forward pass of our own what the trainer puts around its own: mixed precision, offloaded activations.

    For TRL 1.16 (`maybe_activation_offload_context` is undocumented). Can go when TRL enters it in
    `compute_loss_context_manager`.
    """
    with trainer.compute_loss_context_manager(), trainer.maybe_activation_offload_context:
        yield


def token_log_probs(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probability of each next token, without all logits at once.

    For TRL 1.16, which adds `fused_lm_head` to the forward of a model that it trains. Can go when that is public.

    Args:
        model: in the hands of an `SFTTrainer`.
        inputs: `input_ids`, `attention_mask`, `labels`, (batch, length).

    Returns:
        (batch, length − 1) float32, 0 where a token does not count; and bool, whether it counts.
    """
    outputs = model(**inputs, fused_lm_head=True)
    return outputs.log_probs.float(), outputs.label_mask


@dataclass
class ForwardPass:
    """What `watched_pass` saw.

    Attributes:
        log_probs: (batch, length − 1), log-probability of each next token, differentiable; 0 where it does not count.
        mask: (batch, length − 1) bool, whether the next token counts.
        hidden_states: (batch, length, width), last hidden states, differentiable.
    """

    log_probs: Tensor | None = None
    mask: Tensor | None = None
    hidden_states: Tensor | None = None


@contextmanager
def watched_pass(model: PreTrainedModel | PeftModel) -> Iterator[ForwardPass]:
    """What the forward pass that an `SFTTrainer` makes inside the block gives; known when the block has ended.

    For TRL 1.16, whose `compute_loss` returns the loss and keeps the outputs (those of `token_log_probs`) to itself;
    `return_outputs=True` is deprecated there. Can go when it returns them.
    """
    seen = ForwardPass()

    def keep_outputs(_: nn.Module, __: Any, outputs: Any) -> None:
        seen.log_probs, seen.mask = outputs.log_probs, outputs.label_mask

    def keep_hidden_states(_: nn.Module, __: Any, outputs: Any) -> None:
        seen.hidden_states = outputs.last_hidden_state

    handles = [
        model.register_forward_hook(keep_outputs),
        without_adapter(model).base_model.register_forward_hook(keep_hidden_states),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def counted_positions(model: PreTrainedModel | PeftModel, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The inputs of an `SFTTrainer`'s pass without gradients whose logits are computed where the next token counts.

    For TRL 1.16, whose fused head leaves other positions out on Triton devices alone and computes all of them on others
    (`compact` in `add_fused_lm_head`). What it measures of the pass stays the same but for the order of sums. Can go
    when it leaves them out everywhere.

    Args:
        model: in the hands of the trainer.
        inputs: of its `compute_loss`; unchanged.
    """
    virtual_tokens = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
    labels = None if virtual_tokens or "shift_labels" in inputs else inputs.get("labels")
    counts = None if labels is None else labels[:, 1:] != -100
    if labels is None or counts is None or not bool(counts.any()):
        yield dict(inputs)
        return

    def keep_counted(_: nn.Module, __: Any, outputs: Any) -> Any:
        outputs.last_hidden_state = outputs.last_hidden_state[:, :-1][counts].unsqueeze(0)
        return outputs

    handle = without_adapter(model).base_model.register_forward_hook(keep_counted)
    try:
        kept = {name: value for name, value in inputs.items() if name != "labels"}
        yield {**kept, "shift_labels": labels[:, 1:][counts].unsqueeze(0)}
    finally:
        handle.remove()


@dataclass(frozen=True)
class LossScale:
    """How the loss of one pass of a learning update is scaled.

    Attributes:
        passes: that make up the update.
        tokens: that count in the whole update. None: the loss of a pass is the mean over its own tokens, and the
            Trainer divides it by `passes` before the backward pass. Else it is divided by `tokens` alone.
        factor: what a sum over this process's tokens is multiplied by, since gradients are averaged over processes and
            `tokens` may be of all.
    """

    passes: int
    tokens: Tensor | int | None
    factor: int


def loss_scale(trainer: "SFTTrainer", num_items_in_batch: Tensor | int | None) -> LossScale:
    """The scale of the pass under way, of whose `compute_loss` the argument is.

    For TRL 1.16 and transformers 5.19 to 5.24, which decide so in `compute_loss` and `training_step`. Can go when a
    loss can be added to theirs before they scale it.
    """
    averaged = num_items_in_batch is not None and trainer.args.average_tokens_across_devices
    return LossScale(
        passes=trainer.current_gradient_accumulation_steps,
        tokens=num_items_in_batch,
        factor=trainer.accelerator.num_processes if averaged else 1,
    )


def forget_evaluation(trainer: "SFTTrainer") -> None:
    """Drop what the trainer measured in evaluation passes, which would be averaged into its next evaluation.

    For TRL 1.16, which collects during any evaluation pass and logs at the next log. Can go when it clears at the start
    of `evaluate`.
    """
    trainer._metrics["eval"].clear()


# Trainers: what they leave on a model --------------------------------------------------------------------------------

# TRL 1.16 (fused head) and accelerate 1.13 to 1.15 (autocast) set `forward` on the model itself and leave it there
# (https://github.com/huggingface/accelerate/issues/858). What follows can go when a trainer takes it off again.


@contextmanager
def restored_forward(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Give the model back its `forward`, which each trainer inside the block wraps once more."""
    head = without_adapter(model)
    forward = head.forward
    try:
        yield
    finally:
        head.forward = forward


def unwrapped_copy(model: Model) -> Model:
    """A copy with the forward of its class: a wrapped one holds on to the model that it was made for."""
    copied = copy.deepcopy(model)
    vars(without_adapter(copied)).pop("forward", None)
    return copied


@contextmanager
def own_precision(model: nn.Module) -> Iterator[None]:
    """Without the autocast that accelerate puts around the forward of a model that it prepares.

    `unwrap_model(keep_fp32_wrapper=False)` would take it off for good, and wrongly where there are other hooks
    (https://github.com/huggingface/accelerate/pull/4255).
    """
    forward = vars(model).get("forward")
    if forward is None or not isinstance(getattr(forward, "__wrapped__", None), ConvertOutputsToFp32):
        yield
        return
    model.forward = vars(model)["_original_forward"]
    try:
        yield
    finally:
        model.forward = forward


# Settings and templates ----------------------------------------------------------------------------------------------


def set_both_names_of_checkpointing(args: TrainingArguments) -> None:
    """Give `activation_checkpointing` the value of its old name where it is unset; before `__post_init__` of `args`.

    TRL 1.16 sets the old name by default, and transformers from 5.23 on warns of it unless the new one is set too; 5.19
    has the old one alone. Can go when TRL's default uses the new name.
    """
    if "activation_checkpointing" in {field.name for field in fields(args)} and args.activation_checkpointing is None:
        args.activation_checkpointing = args.gradient_checkpointing


def marks_assistant(chat_template: str) -> bool:
    """Whether a chat template marks what the assistant says.

    For TRL 1.16, by the rule of its `SFTTrainer`. Can go when `trl` exports `has_generation_markers`.
    """
    return bool(has_generation_markers(chat_template))


# Tokenizers ----------------------------------------------------------------------------------------------------------


def encodes_by_backend(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the token ids of a text are those of the Rust tokenizer, with no encoding of the class's own.

    For transformers 5.19 to 5.24, which do not tell. Can go with `token_ids`.
    """
    kind = type(tokenizer)
    return issubclass(kind, PreTrainedTokenizerFast) and kind._encode_plus is PreTrainedTokenizerFast._encode_plus


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], **settings: Any) -> list[list[int]]:
    """Token ids of each text, as the tokenizer gives them when it is called; `settings` are `add_special_tokens` alone.

    For transformers 5.19 to 5.24, whose calls keep offsets and lists that nobody reads, in half of their time. Classes
    with an encoding of their own are called. Can go when a call is as fast.
    """
    if not encodes_by_backend(tokenizer) or len(texts) == 1:
        return [list(ids) for ids in tokenizer(text=texts, **settings)["input_ids"]]
    # Takes back the padding and truncation of a call before.
    tokenizer(text="", **settings)
    return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch_fast(texts, **settings)]


# Generation ----------------------------------------------------------------------------------------------------------

# What models and `generate` call the cache, as argument and as result: transformers 5.24 renamed it. Can go with 5.23.
CACHE = "cache" if "cache" in {field.name for field in fields(GenerateDecoderOnlyOutput)} else "past_key_values"


def rows_can_leave(cache: Cache | None) -> bool:
    """Whether rows can be taken out of a cache.

    For transformers 5.19 to 5.24, where recurrent states have no selection. Can go when all layers have
    `batch_select_indices`.
    """
    return isinstance(cache, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in cache.layers)


def rows_can_join(cache: Cache | None) -> bool:
    """Whether `join_caches` and `pad_cache` apply: plain keys and values in every layer, and nothing but those."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def join_caches(cache: DynamicCache, other: DynamicCache) -> None:
    """Add the rows of `other`, of the same width, to `cache`, in place.

    For transformers 5.19 to 5.24, which has no operation for it. Can go when there is one.
    """
    for layer, added in zip(cache.layers, other.layers, strict=True):
        layer.keys = torch.cat([layer.keys, added.keys])
        layer.values = torch.cat([layer.values, added.values])


def pad_cache(cache: DynamicCache, columns: int) -> None:
    """Add zero columns on the left, or remove columns there (negative), in place. As `join_caches`."""
    for layer in cache.layers:
        layer.keys = nn.functional.pad(layer.keys, (0, 0, columns, 0))
        layer.values = nn.functional.pad(layer.values, (0, 0, columns, 0))


# Launching -----------------------------------------------------------------------------------------------------------


def run_launcher(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """`accelerate launch` with these arguments, from this process.

    For accelerate 1.13 to 1.15, whose command is a function of a module without documentation; a process of its own
    would hide how a worker ended. Can go when accelerate documents it.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import patch_environment

    options = launch_command_parser().parse_args([*arguments])
    with patch_environment(**environment):
        launch_command(options)
