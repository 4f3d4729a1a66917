"""`LWFTrainer`: TRL's `SFTTrainer` with Learning With Forgetting."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.trainer_utils import get_last_checkpoint

from graceful_forgetting.baselines import Baseline
from graceful_forgetting.baselines import Need as BaselineNeed
from graceful_forgetting.baselines.added_loss import AddedLoss
from graceful_forgetting.config import LWFConfig, changed
from graceful_forgetting.data.learning_rows import single_examples
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.posterior.reference import PlainTrainer
from graceful_forgetting.runtime import internals
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.runtime.rng import preserved_rng
from graceful_forgetting.training import checks
from graceful_forgetting.training.baseline import BASE_WEIGHTS, BASELINE_FILE, check_base_weights, make_baseline
from graceful_forgetting.training.in_memory import ModelInMemory, TrainerRows
from graceful_forgetting.training.method import Method
from graceful_forgetting.training.model_card import add_section, card_section, presentation
from graceful_forgetting.training.preparation import (
    POSTERIOR_FOLDER,
    Preparation,
    combine_forget_datasets,
    nothing_selected,
    read_preparation,
    trained_weights,
)
from graceful_forgetting.training.shipped import resolve_model_name
from graceful_forgetting.training.stages import RunDirectory
from graceful_forgetting.training.topology import check_topology
from graceful_forgetting.training.trials import SETTINGS, trial_args
from graceful_forgetting.training.unlearned_rows import first_rows, objective_needs
from graceful_forgetting.unlearning.fallback import HeldOutComparison, held_out_loss, keep_better
from graceful_forgetting.unlearning.objectives import Need as ObjectiveNeed
from graceful_forgetting.unlearning.step import unlearn_if_due
from graceful_forgetting.unlearning.updates import UnlearningUpdates, load_rows, unlearning_summary

logger = logging.getLogger(__name__)

CHECKPOINT_FOLDER = "unlearning"


@internals.with_state_in_checkpoints
class LWFTrainer(PlainTrainer):
    """Supervised fine-tuning *with* forgetting: `SFTTrainer` that unlearns, between learning updates, the part of the
    model's own knowledge that conflicts with the learning task.

    Learning **With** Forgetting (Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv
    2505.19715); not Learning *without* Forgetting (Li & Hoiem, 2016), which has the opposite goal.

    All arguments of `SFTTrainer` keep their meaning. Two are added:

    Args:
        model: name, path or model; "graceful/base-text" is the small model in the package.
        args: an `LWFConfig`; none uses its defaults and `<model>-LWF` as output folder.
        forget_dataset: what the model may forget, as a `Dataset` or as a dict of them by forgetting task:

            - prompts only (`prompt`): the model answers them itself, its answers are scored, a part is selected;
            - with answers (`prompt` + `completion`, or `messages`, or `input_ids` + `labels`): scored and selected;
            - already scored (`forgetting_confidence`): selected.

            None: plain fine-tuning, parameter for parameter that of `SFTTrainer`, unless `args.baseline` is set.
        preparation: in place of `forget_dataset`, what the stages before training have produced already for this base
            model (of another trainer, or put together from artefacts): scored self-knowledge, its selection, and the
            posterior where `args` needs one.

    With `args.baseline`, a method to compare with is added to the fine-tuning, with unlearning or without
    (`graceful_forgetting.baselines`).

    `train()` first does what is missing (self-knowledge, reference run, posterior, confidence, selection), from the
    base weights and without consuming any random numbers of the run; `prepare_unlearning()` does it on its own. Its
    artefacts are in `<output_dir>/preparation`. Unlearning updates do not count in `max_steps` or the learning-rate
    schedule and do not change the order of the learning batches.

    The Trainer log has, beside the usual `loss` and `grad_norm` of learning: `unlearn_loss` (mean L(x) of the samples
    before their unlearning updates), `unlearn_active` (share of them that still have a gradient), `unlearn_grad_norm`
    (before clipping; with schedule 'joint' of the weighted unlearning gradient alone), `unlearn_updates` (how many so
    far), and `baseline_loss` (what the baseline adds to `loss`).

    Raises:
        TypeError: `args` is not an `LWFConfig`, or `forget_dataset` or `preparation` is of another type.
        ValueError: names the argument, its value and the remedy.
        NonFiniteLossError: during training; names the step.
    """

    args: LWFConfig
    held_out: HeldOutComparison | None = None
    _updates: UnlearningUpdates | None = None
    _added_loss: AddedLoss | None = None

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: LWFConfig | None = None,
        *positional: Any,
        forget_dataset: Dataset | Mapping[str, Dataset] | None = None,
        preparation: Preparation | None = None,
        **keywords: Any,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = LWFConfig(output_dir=f"{Path(name).name or 'model'}-LWF")
        if isinstance(model, str):
            model = resolve_model_name(model)
        if not isinstance(args, LWFConfig):
            raise TypeError(f"args must be an LWFConfig (an SFTConfig with more fields), not {type(args).__name__}")
        if preparation is not None and not isinstance(preparation, Preparation):
            raise TypeError(f"preparation must be a Preparation, not {type(preparation).__name__}")
        if preparation is not None and forget_dataset is not None:
            raise ValueError(
                "forget_dataset and preparation are both given: a preparation takes the place of a forget_dataset"
            )
        self.preparation = preparation
        self._forget_dataset = None
        if forget_dataset is not None:
            self._forget_dataset = combine_forget_datasets(forget_dataset, args.dataset_text_field)
        checks.check_forgetting(args, self._forget_dataset, preparation)
        self._presentation = presentation(args, self._forget_dataset, preparation)
        internals.present_as(self, *self._presentation)
        super().__init__(model, args, *positional, **keywords)
        if self.unlearning_enabled or args.baseline is not None:
            self._check()

    @property
    def unlearning_enabled(self) -> bool:
        """Whether this run unlearns at all."""
        return checks.unlearns(self.args, self._forget_dataset, self.preparation)

    def _check(self) -> None:
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        check_topology(self.args, self.accelerator.distributed_type, plugin)
        checks.check_model(self.args, self.model, self.processing_class)
        checks.check_data(
            self.args,
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            forget_dataset=self._forget_dataset,
            preparation=self.preparation,
        )
        data_sets = {"train_dataset": self.train_dataset, "eval_dataset": self.eval_dataset}
        checks.check_prompts(self.args, data_sets, self.processing_class, self.chat_template)
        checks.check_own_parts(
            self.args, self.compute_loss_func, self.optimizer, self._forget_dataset, self.preparation
        )

    # Before training -------------------------------------------------------------------------------------------------

    def prepare_unlearning(self) -> Preparation:
        """Run the stages before training that `forget_dataset` still needs; the model comes back at θ_base.

        Returns:
            the self-knowledge with its scores, the selected samples and the audit of the selection.

        Raises:
            ValueError: there is neither a `forget_dataset` nor a `preparation`.
        """
        if self._forget_dataset is None:
            if self.preparation is None:
                raise ValueError("forget_dataset is None: there is no self-knowledge to prepare")
            return self.preparation
        return self._prepare(resumes=False)

    def _prepare(self, resumes: bool) -> Preparation:
        """Make the stages that training reads; a run that `resumes` takes those that are finished."""
        self._place_whole_model()
        with preserved_rng():
            method = self._method(resumes)
            stages = method.stages_read()
            if "posterior" in stages:
                stages["reference"] = method.reference()
            nothing = Dataset.from_dict({})
            self.preparation = read_preparation(stages) or Preparation(nothing, nothing, {})
            if "selection" in stages:
                self._say_what_is_unlearned(self.preparation)
            # Trial runs have been held against it: where it is not at hand, it is not made for this alone.
            at_hand = "reference" in stages and self.args.reference_share == 1
            untried = self.args.forget_trials == "none"
            if self._compares_with_plain and len(self.preparation.selected) > 0 and (untried or at_hand):
                with method.models.trained(method.models.plain(1.0)) as model:
                    self.preparation.plain = trained_weights(model)
        return self.preparation

    def _method(self, reuse: bool) -> Method:
        args = self.args
        directory = RunDirectory(Path(args.output_dir) / "preparation", announce=logger.info, reuse=reuse)
        what_counts = {"assistant_only": args.assistant_only_loss, "chat_template": self.chat_template}
        rows = TrainerRows(
            self.train_dataset, self._forget_dataset, self.processing_class, what_counts, args.posterior_num_samples
        )
        models = ModelInMemory(self.model, args, rows, directory, self._reference_arguments, self._trial_loss)
        return Method(args, rows, models, directory, logger.info)

    def _say_what_is_unlearned(self, preparation: Preparation) -> None:
        logger.info(f"{len(preparation.selected)} of {len(preparation.scored)} samples are unlearned")
        if len(preparation.selected) == 0:
            logger.warning(nothing_selected(preparation.audit))

    def _trial_loss(self, folder: Path, preparation: Preparation) -> float:
        """Held-out loss after a trial run that unlearns what `preparation` selects; the model stays as it is then."""
        trial = LWFTrainer(
            self.model,
            trial_args(self.args, folder),
            train_dataset=self.train_dataset,
            eval_dataset=self.eval_dataset,
            processing_class=self.processing_class,
            preparation=preparation,
            **self._reference_arguments,
        )
        trial.train()
        return trial.held_out_loss()

    @property
    def _reference_arguments(self) -> dict[str, Any]:
        """What the reference run takes over from this one beside `args`, so that it learns in the same way."""
        return {
            "data_collator": self.data_collator,
            "compute_loss_func": self.compute_loss_func,
            "optimizer_cls_and_kwargs": self.optimizer_cls_and_kwargs,
        }

    def _place_whole_model(self) -> None:
        # The Trainer does so itself, except for a model that it is going to shard.
        if self.is_fsdp_enabled:
            self.model.to(self.args.device)

    def train(self, resume_from_checkpoint: str | bool | None = None, *positional: Any, **keywords: Any) -> Any:
        """As `SFTTrainer.train`; runs `prepare_unlearning` first unless that was done or a checkpoint is resumed."""
        checkpoint = self._checkpoint(resume_from_checkpoint)
        baseline = None
        with preserved_rng():
            if self.args.baseline is not None:
                self._base_weights = fingerprint_model(self.model)["weights"]
                check_base_weights(self.args, self._base_weights, checkpoint)
                baseline = self._make_baseline(checkpoint)
                self._added_loss = AddedLoss(baseline)
            if self.unlearning_enabled:
                if self._compares_with_plain:
                    self._prepared(checkpoint)
                self._take_over_settings(checkpoint)
                self._updates = self._make_updates(checkpoint)
            # The last thing to happen at θ_base.
            if baseline is not None and checkpoint is None:
                baseline.before_training(self.model)
        output = super().train(resume_from_checkpoint, *positional, **keywords)
        self._keep_better()
        return output

    def _take_over_settings(self, checkpoint: Path | None) -> None:
        """Unlearn in the way that trial runs have chosen, if they have; the caller's settings stay as they are."""
        if self.preparation is None and self.args.forget_trials != "both":
            return
        chosen = self._prepared(checkpoint).audit.get(SETTINGS, {})
        if chosen:
            self.args = changed(self.args, forget_trials="none", **chosen)

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

    def _make_updates(self, checkpoint: Path | None) -> UnlearningUpdates:
        needs = objective_needs(self.args)
        if checkpoint is None:
            preparation = self._prepared(checkpoint)
            if ObjectiveNeed.BASE_LOSSES in needs:
                self._place_whole_model()
            samples, retained = first_rows(self.model, self.args, preparation)
        else:
            samples, retained = load_rows(checkpoint / CHECKPOINT_FOLDER)
        return UnlearningUpdates(
            samples,
            self.args,
            lambda: self.model.parameters(),
            retained=retained,
            learning=single_examples(self.train_dataset) if ObjectiveNeed.LEARNING in needs else None,
        )

    def _prepared(self, checkpoint: Path | None) -> Preparation:
        """The stages before training: as given, as done before, as the interrupted run left them, or done now."""
        return self.preparation or self._prepare(resumes=checkpoint is not None)

    def _make_baseline(self, checkpoint: Path | None) -> Baseline:
        # Where there is unlearning too, its reference run gives the posterior.
        needs = checks.baseline_needs(self.args)
        shared = BaselineNeed.POSTERIOR in needs and self.unlearning_enabled and checkpoint is None
        known = self._prepared(checkpoint) if shared or BaselineNeed.SELF_KNOWLEDGE in needs else self.preparation

        def learning_posterior() -> LearningPosterior:
            if known is not None and known.posterior is not None:
                return known.posterior
            stage = self._method(reuse=checkpoint is not None).posterior()
            return LearningPosterior.from_pretrained(stage.path / POSTERIOR_FOLDER)

        return make_baseline(
            self.model,
            self.args,
            self.train_dataset,
            self.processing_class,
            self._reference_arguments,
            known,
            learning_posterior,
        )

    def _checkpoint(self, resume_from_checkpoint: str | bool | None) -> Path | None:
        if isinstance(resume_from_checkpoint, str):
            return Path(resume_from_checkpoint)
        last = get_last_checkpoint(self.args.output_dir) if resume_from_checkpoint else None
        return None if last is None else Path(last)

    # During training -------------------------------------------------------------------------------------------------

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

    # Model card ------------------------------------------------------------------------------------------------------

    def create_model_card(self, *positional: Any, **keywords: Any) -> None:
        """As `SFTTrainer.create_model_card`, with what was forgotten, the settings of the method and its numbers."""
        super().create_model_card(*positional, **keywords)
        if not self.is_world_process_zero():
            return
        samples = 0 if self._updates is None else len(self._updates.samples)
        preparation = self.preparation if self.unlearning_enabled else None
        summary = self.unlearning_summary()
        name = self._presentation[0]
        section = card_section(name, self.args, samples, preparation, self.state.log_history, summary)
        add_section(Path(self.args.output_dir) / "README.md", section)
