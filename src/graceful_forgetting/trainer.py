"""`LWFTrainer`: TRL's `SFTTrainer` with Learning With Forgetting. Orchestration, and every touch of TRL's internals."""

import logging
import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_utils import get_last_checkpoint

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import collate
from graceful_forgetting.preparation import (
    SCORE_COLUMN,
    Preparation,
    check_forget_dataset,
    combine_forget_datasets,
    prepare_unlearning,
)
from graceful_forgetting.reference import NonFiniteLossError, PlainTrainer
from graceful_forgetting.rng import preserved_rng
from graceful_forgetting.unlearning.schedule import is_unlearning_step
from graceful_forgetting.unlearning.updates import UnlearningUpdates, load_samples

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "unlearning"


class LWFTrainer(PlainTrainer):
    """Supervised fine-tuning *with* forgetting: `SFTTrainer` that unlearns, between learning updates, the part of the
    model's own knowledge that conflicts with the learning task.

    Learning **With** Forgetting (Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv
    2505.19715); not Learning *without* Forgetting (Li & Hoiem, 2016), which has the opposite goal.

    All arguments of `SFTTrainer` keep their meaning. One is added:

    Args:
        model: name, path or model.
        args: an `LWFConfig`; none uses its defaults and `<model>-LWF` as output folder.
        forget_dataset: what the model may forget, as a `Dataset` or as a dict of them by forgetting task:
            - prompts only (`prompt`): the model answers them itself, its answers are scored, a part is selected;
            - with answers (`prompt` + `completion`, or `messages`, or `input_ids` + `labels`): scored and selected;
            - already scored (`forgetting_confidence`): selected.
            None: plain fine-tuning, parameter for parameter that of `SFTTrainer`.

    `train()` first does what is missing (self-knowledge, reference run, posterior, confidence, selection), from the
    base weights and without consuming any random numbers of the run; `prepare_unlearning()` does it on its own. Its
    artefacts are in `<output_dir>/preparation`. Unlearning updates do not count in `max_steps` or the learning-rate
    schedule and do not change the order of the learning batches.

    The Trainer log has, beside the usual `loss` and `grad_norm` of learning: `unlearn_loss` (mean L(x) of the samples
    before their unlearning updates), `unlearn_active` (share of them below the cap), `unlearn_grad_norm`, and
    `unlearn_updates` (how many so far).

    Raises:
        TypeError: `args` is not an `LWFConfig`, or `forget_dataset` is of another type.
        ValueError: names the argument, its value and the remedy.
        NonFiniteLossError: during training; names the step.
    """

    _tag_names = ["trl", "sft", "graceful-forgetting", "learning-with-forgetting"]  # noqa: RUF012 (TRL's convention)
    _name = "LWF (Learning With Forgetting)"
    _paper = {  # noqa: RUF012 (TRL's convention)
        "title": "Graceful Forgetting in Generative Language Models",
        "id": "2505.19715",
        "citation": textwrap.dedent("""\
            @inproceedings{jiang2025graceful,
                title     = {{Graceful Forgetting in Generative Language Models}},
                author    = {Jiang, Chunyang and Chan, Chi-Min and Cai, Yiyang and Liu, Yulong and Xue, Wei and
                             Guo, Yike},
                year      = 2025,
                booktitle = {Proceedings of the 2025 Conference on Empirical Methods in Natural Language Processing},
            }"""),
    }

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: LWFConfig | None = None,
        *positional: Any,
        forget_dataset: Dataset | Mapping[str, Dataset] | None = None,
        **keywords: Any,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = LWFConfig(output_dir=f"{Path(name).name or 'model'}-LWF")
        if not isinstance(args, LWFConfig):
            raise TypeError(f"args must be an LWFConfig (an SFTConfig with more fields), not {type(args).__name__}")
        self.preparation: Preparation | None = None
        self._updates: UnlearningUpdates | None = None
        self._forget_dataset = None if forget_dataset is None else combine_forget_datasets(forget_dataset)
        if self._forget_dataset is not None and args.unlearn_every > 0:
            check_forget_dataset(self._forget_dataset, args)
        super().__init__(model, args, *positional, **keywords)
        if self.unlearning_enabled:
            self._check_backend()

    @property
    def unlearning_enabled(self) -> bool:
        """Whether this run unlearns at all."""
        return self._forget_dataset is not None and self.args.unlearn_every > 0

    def _check_backend(self) -> None:
        if self.accelerator.distributed_type not in (
            DistributedType.NO,
            DistributedType.MULTI_GPU,
            DistributedType.MULTI_CPU,
        ):
            raise ValueError(
                f"unlearning under {self.accelerator.distributed_type} is not supported: use one process or DDP, or "
                "unlearn_every=0"
            )
        if not isinstance(self.train_dataset, Dataset) and self._needs_posterior():
            raise ValueError(
                "a streaming train_dataset cannot be used to score forget_dataset, since the Fisher information needs "
                "all rows: pass a Dataset, or a forget_dataset that is already scored (`forgetting_confidence`)"
            )

    def _needs_posterior(self) -> bool:
        assert self._forget_dataset is not None
        return SCORE_COLUMN not in self._forget_dataset.column_names

    # Before training -------------------------------------------------------------------------------------------------

    def prepare_unlearning(self) -> Preparation:
        """Run the stages before training that `forget_dataset` still needs; the model comes back at θ_base.

        Returns:
            the self-knowledge with its scores, the selected samples and the audit of the selection.
        """
        assert self._forget_dataset is not None
        with preserved_rng():
            self.preparation = prepare_unlearning(
                self.model,
                self.args,
                self.train_dataset,
                self._forget_dataset,
                self.processing_class,
                self.data_collator,
            )
        return self.preparation

    def train(self, resume_from_checkpoint: str | bool | None = None, *positional: Any, **keywords: Any) -> Any:
        """As `SFTTrainer.train`; runs `prepare_unlearning` first unless that was done or a checkpoint is resumed."""
        if self.unlearning_enabled:
            checkpoint = self._checkpoint(resume_from_checkpoint)
            if checkpoint is not None:
                samples = load_samples(checkpoint / CHECKPOINT_FOLDER)
            else:
                samples = (self.preparation or self.prepare_unlearning()).selected
            self._updates = UnlearningUpdates(samples, self.args, self.model.parameters())
        self._pending_losses: list[Tensor] = []
        self._stop_announced = False
        return super().train(resume_from_checkpoint, *positional, **keywords)

    def _checkpoint(self, resume_from_checkpoint: str | bool | None) -> Path | None:
        if isinstance(resume_from_checkpoint, str):
            return Path(resume_from_checkpoint)
        last = get_last_checkpoint(self.args.output_dir) if resume_from_checkpoint else None
        return None if last is None else Path(last)

    # During training -------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Fetch the micro-batches of the next learning update; the unlearning update that precedes it happens here.

        At this point of the Trainer's loop gradients are empty and no `no_sync` context is open (there is one around
        `training_step` when gradients are accumulated), so that clipping and DDP work as for any update.
        """
        batches = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self._updates is not None and batches[0]:
            self._observe_learning_loss()
            if not self._updates.guard.stopped and is_unlearning_step(self.state.global_step, self.args.unlearn_every):
                with preserved_rng(seed=self.args.seed + self._updates.count):
                    self._unlearn(self._updates)
        return batches

    def _unlearn(self, updates: UnlearningUpdates) -> None:
        model = self.model_wrapped
        model.train()
        micro_batches = updates.next_micro_batches(self.args.process_index, self.args.world_size)
        rows = sum(len(batch) for batch in micro_batches)
        loss_sum = active_sum = 0.0
        for number, batch in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with self.accelerator.no_sync(model) if not last else torch.enable_grad():
                losses = self._sample_losses(model, batch)
                objective = updates.objective(losses)
                self.accelerator.backward(objective.sum() / rows)
            loss_sum += self._mean_over_processes(losses.detach().sum())
            active_sum += self._mean_over_processes(updates.active(losses.detach()).float().sum())
        self._require_finite("loss", loss_sum)
        grad_norm = self._step(updates) if active_sum > 0 else 0.0
        model.zero_grad()
        updates.count += 1
        updates.log.add(loss_sum / rows, active_sum / rows, grad_norm)

    def _step(self, updates: UnlearningUpdates) -> float:
        if self.args.unlearn_lr_scheduler == "follow":
            scale = self._get_learning_rate() / self.args.learning_rate
            for group in updates.optimizer.param_groups:
                group["lr"] = updates.peak_learning_rate * scale
        norm = torch.nn.utils.clip_grad_norm_(updates.parameters, self.args.unlearn_max_grad_norm or math.inf).item()
        self._require_finite("gradient norm", norm)
        updates.optimizer.step()
        return norm

    def _require_finite(self, what: str, value: float) -> None:
        assert self._updates is not None
        if not math.isfinite(value):
            self.model_wrapped.zero_grad()
            raise NonFiniteLossError(
                f"the unlearning {what} is {value} before learning update {self.state.global_step + 1} (unlearning "
                f"update {self._updates.count + 1}); checkpoints saved so far are intact. Lower unlearn_learning_rate "
                f"({self._updates.peak_learning_rate:g}), or use unlearn_objective='bounded_ascent'"
            )

    def _sample_losses(self, model: nn.Module, rows: list[dict[str, Any]]) -> Tensor:
        """L(x) of each row, shape (batch,), from the per-token log-probabilities of TRL's fused head."""
        inputs = self._prepare_inputs(collate(rows, self.processing_class.pad_token_id))
        with self.compute_loss_context_manager(), self.maybe_activation_offload_context:
            outputs = model(**inputs, fused_lm_head=True)
        return -outputs.log_probs.float().sum(dim=1) / outputs.label_mask.sum(dim=1)

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

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `SFTTrainer.log`, with the measurements of unlearning beside those of learning."""
        if self._updates is not None and "loss" in logs:
            logs.update(self._updates.log.drain())
            logs["unlearn_updates"] = self._updates.count
        super().log(logs, start_time)

    def unlearning_summary(self) -> dict[str, Any]:
        """Number of unlearning updates so far, and whether, when and why the guard ended them; JSON types."""
        if self._updates is None:
            return {"updates": 0, "guard": {"stopped": False, "reason": None, "step": None}}
        guard = self._updates.guard
        return {
            "updates": self._updates.count,
            "guard": {"stopped": guard.stopped, "reason": guard.reason, "step": guard.step},
        }

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._updates is not None:
            # On every process: it gathers.
            self._observe_learning_loss()
            if self.args.should_save:
                self._updates.save(Path(output_dir) / CHECKPOINT_FOLDER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._updates is not None:
            self._updates.load(Path(checkpoint) / CHECKPOINT_FOLDER)
