"""`LWFTrainer`: TRL's `SFTTrainer` with Learning With Forgetting."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from jinja2 import TemplateError
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from graceful_forgetting.baselines import Baseline
from graceful_forgetting.baselines import Need as BaselineNeed
from graceful_forgetting.baselines.added_loss import AddedLoss
from graceful_forgetting.config import LWFConfig, changed
from graceful_forgetting.data import settled_tokenizer
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.posterior.reference import name_stage
from graceful_forgetting.results.text import duration
from graceful_forgetting.runtime import internals
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.runtime.distributed import on_main_process
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.runtime.progress import say, without_bars_of_libraries
from graceful_forgetting.runtime.rng import preserved_rng
from graceful_forgetting.training import checks
from graceful_forgetting.training.baseline import check_base_weights, make_baseline
from graceful_forgetting.training.columns import spoken_as_learned
from graceful_forgetting.training.in_memory import ModelInMemory, TrainerRows, price_ahead
from graceful_forgetting.training.method import Method
from graceful_forgetting.training.model_card import presentation
from graceful_forgetting.training.model_checks import check_causal, check_dequantised
from graceful_forgetting.training.model_files import outline
from graceful_forgetting.training.notices import cost_ahead, self_defeating
from graceful_forgetting.training.preparation import (
    LOG_FILE,
    POSTERIOR_FOLDER,
    Preparation,
    combine_forget_datasets,
    much_selected,
    nothing_selected,
    read_preparation,
    trained_weights,
)
from graceful_forgetting.training.rejected import resume_rejected
from graceful_forgetting.training.shipped import resolve_model_name
from graceful_forgetting.training.stages import RunDirectory
from graceful_forgetting.training.topology import check_topology
from graceful_forgetting.training.trials import SETTINGS, trial_args
from graceful_forgetting.training.unlearned_rows import first_rows, learning_rows, objective_needs
from graceful_forgetting.training.unlearning_trainer import CHECKPOINT_FOLDER, UnlearningTrainer
from graceful_forgetting.unlearning.objectives import Need as ObjectiveNeed
from graceful_forgetting.unlearning.updates import UnlearningUpdates, load_rows

logger = logging.getLogger(__name__)


class LWFTrainer(UnlearningTrainer):
    """Supervised fine-tuning *with* forgetting: `SFTTrainer` that unlearns, between learning updates, the part of the
    model's own knowledge that conflicts with the learning task.

    Learning **With** Forgetting (Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv
    2505.19715); not Learning *without* Forgetting (Li & Hoiem, 2016), which has the opposite goal.

    All arguments of `SFTTrainer` keep their meaning, order and defaults. Two are added:

    Args:
        model: name, path or model; "graceful/base-text" is the small model in the package.
        args: an `LWFConfig`; none uses its defaults and `<model>-LWF` as output folder.
        forget_dataset: what the model may forget, as a `Dataset` or as a dict of them by forgetting task:

            - prompts only (`prompt`): the model answers them itself, its answers are scored, a part is selected. Plain
              text goes through the chat template where learning rows are conversations;
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

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: LWFConfig | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | IterableDataset | Mapping[str, Dataset | IterableDataset] | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        quantization_config: QuantizationConfigMixin | None = None,
        peft_config: PeftConfig | None = None,
        formatting_func: Callable[[dict[str, Any]], str] | None = None,
        *,
        forget_dataset: Dataset | Mapping[str, Dataset] | None = None,
        preparation: Preparation | None = None,
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
        special = checks.unlearns(args, self._forget_dataset, preparation) or args.baseline is not None
        if special:
            checks.check_data(
                args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                forget_dataset=self._forget_dataset,
                preparation=preparation,
                formatted=formatting_func is not None,
            )
        if special and isinstance(model, str):
            revision = (args.model_init_kwargs or {}).get("revision")
            outline("model", model, revision=revision, trust_remote_code=bool(args.trust_remote_code))
        check_dequantised("model", model)
        if isinstance(processing_class, PreTrainedTokenizerBase):
            # The caller's stays as it is: one copy serves every stage.
            processing_class = settled_tokenizer(processing_class, args, may_grow=True)
        self._presentation = presentation(args, self._forget_dataset, preparation)
        internals.present_as(self, *self._presentation)
        try:
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                compute_loss_func=compute_loss_func,
                compute_metrics=compute_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=preprocess_logits_for_metrics,
                quantization_config=quantization_config,
                peft_config=peft_config,
                formatting_func=formatting_func,
            )
        except TemplateError as error:
            data_sets = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
            raise checks.template_failure(error, data_sets, processing_class) from error
        if special:
            plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
            check_topology(args, self.accelerator.distributed_type, plugin)
            checks.check_model(args, self.model, self.processing_class)
            data_sets = {"train_dataset": self.train_dataset, "eval_dataset": self.eval_dataset}
            checks.check_prompts(args, data_sets, self.processing_class, self.chat_template)
            if not self.is_fsdp_enabled:
                # Whose first process alone may hold the weights.
                check_causal("model", self.model)
            checks.check_own_parts(args, self.compute_loss_func, self.optimizer, self._forget_dataset, preparation)
            if self._forget_dataset is not None:
                self._forget_dataset = spoken_as_learned(
                    self._forget_dataset, train_dataset, self.processing_class, formatting_func is not None
                )
        if self.unlearning_enabled and self._forget_dataset is not None:
            learning = None if isinstance(self.train_dataset, IterableDataset) else len(self.train_dataset)
            for text in self_defeating(args, learning, len(self._forget_dataset)):
                logger.warning(text)

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
        with preserved_rng(), without_bars_of_libraries():
            method = self._method(resumes)
            untried = self.args.forget_trials == "none"
            reference = method.scorer_needs_posterior or BaselineNeed.POSTERIOR in checks.baseline_needs(self.args)
            # Trial runs are held against it: where it is not at hand, it is not made for this alone.
            compares = self._compares_with_plain and (untried or (reference and self.args.reference_share == 1))
            if self.unlearning_enabled:
                self._say(cost_ahead(self.args, self._title, reference, compares))
                price = price_ahead(method, self.eval_dataset, compares)
                if price is not None:
                    self._say(price)
            stages = method.stages_read()
            if "posterior" in stages:
                stages["reference"] = method.reference()
            nothing = Dataset.from_dict({})
            self.preparation = read_preparation(stages) or Preparation(nothing, nothing, {})
            self._whole_reference = stages.get("reference") if self.args.reference_share == 1 else None
            if "selection" in stages:
                self._say_what_is_unlearned(self.preparation)
            if compares and len(self.preparation.selected) > 0:
                plain = method.models.plain(1.0)
                self.preparation.plain_log = read_json(plain.path / LOG_FILE)
                with method.models.trained(plain) as model:
                    self.preparation.plain = trained_weights(model)
        return self.preparation

    def _method(self, reuse: bool) -> Method:
        args = self.args
        folder = Path(args.output_dir) / "preparation"
        directory = RunDirectory(folder, announce=self._say, reuse=reuse, starts=False)
        what_counts = {"assistant_only": args.assistant_only_loss, "chat_template": self.chat_template}
        rows = TrainerRows(
            self.train_dataset, self._forget_dataset, self.processing_class, what_counts, args.posterior_num_samples
        )
        models = ModelInMemory(self.model, args, rows, directory, self._reference_arguments, self._trial_loss)
        return Method(args, rows, models, directory, logger.info)

    def _say_what_is_unlearned(self, preparation: Preparation) -> None:
        self._say(f"{len(preparation.selected)} of {len(preparation.scored)} samples are unlearned")
        if len(preparation.selected) == 0:
            logger.warning(nothing_selected(preparation.audit))
        elif much := much_selected(preparation.audit):
            logger.warning(much)

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
        name_stage(trial, f"trial {folder.parent.name}")
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
        if resume_from_checkpoint:
            folder = Path(self.args.output_dir)
            if isinstance(resume_from_checkpoint, str):
                folder = Path(resume_from_checkpoint).parent
            known = self.preparation is not None and self.preparation.plain is not None
            on_main_process(partial(resume_rejected, folder, known or self._compares_with_plain))
        checkpoint = self.resumed(resume_from_checkpoint)
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
                if checkpoint is None and self._would_repeat(self._prepared(checkpoint)):
                    return self._take_reference()
                self._updates = self._make_updates(checkpoint)
            # The last thing to happen at θ_base.
            if baseline is not None and checkpoint is None:
                baseline.before_training(self.model)
        where = resume_from_checkpoint if checkpoint is None else str(checkpoint)
        name_stage(self, self._title, with_lines=True)
        output = super().train(where, *positional, **keywords)
        if self.unlearning_enabled:
            updates = (
                f"learning updates {self.state.global_step}, unlearning updates {self.unlearning_summary()['updates']}"
            )
            self._say(f"{self._title}: done in {duration(output.metrics['train_runtime'])} ({updates})")
        if baseline is not None:
            self.line_search = baseline.after_training(self.model, self.held_out_loss)
            if self.line_search is not None and not self.args.disable_tqdm:
                say(f"{self._title}: {self.line_search.text()}. The same rows chose it: measure on others")
        self._keep_better()
        return output

    def _take_over_settings(self, checkpoint: Path | None) -> None:
        """Unlearn in the way that trial runs have chosen, if they have; the caller's settings stay as they are."""
        if self.preparation is None and self.args.forget_trials != "both":
            return
        chosen = self._prepared(checkpoint).audit.get(SETTINGS, {})
        if chosen:
            self.args = changed(self.args, forget_trials="none", **chosen)

    def _make_updates(self, checkpoint: Path | None) -> UnlearningUpdates:
        needs = objective_needs(self.args)
        if checkpoint is None:
            preparation = self._prepared(checkpoint)
            if ObjectiveNeed.BASE_LOSSES in needs:
                self._place_whole_model()
            samples, retained = first_rows(self.model, self.args, preparation, self.processing_class)
        else:
            samples, retained = load_rows(checkpoint / CHECKPOINT_FOLDER)
        return UnlearningUpdates(
            samples,
            self.args,
            lambda: self.model.parameters(),
            retained=retained,
            learning=learning_rows(self.train_dataset, self.args),
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
