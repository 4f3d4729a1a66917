"""`LWFTrainer`: TRL's `SFTTrainer` with Learning With Forgetting. Orchestration, and every touch of TRL's internals."""

import logging
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin
from transformers.trainer_utils import get_last_checkpoint

from graceful_forgetting.baselines import BASELINES, Baseline, BaselineContext
from graceful_forgetting.baselines import Need as BaselineNeed
from graceful_forgetting.confidence.scorer import Need as ScorerNeed
from graceful_forgetting.confidence.scorers import SCORERS
from graceful_forgetting.config import LWFConfig, changed
from graceful_forgetting.data.learning_rows import check_single_examples, single_examples
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.posterior.reference import reference_args, restored_weights, train_reference
from graceful_forgetting.runtime.artifacts import read_json, write_json
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.runtime.rng import preserved_rng
from graceful_forgetting.selection import select_retained
from graceful_forgetting.training.model_card import add_section, card_section
from graceful_forgetting.training.preparation import (
    POSTERIOR_FOLDER,
    SCORE_COLUMN,
    Preparation,
    check_forget_dataset,
    combine_forget_datasets,
    has_preparation,
    load_preparation,
    preparation_folder,
    prepare_posterior,
    prepare_unlearning,
)
from graceful_forgetting.training.shipped import resolve_model_name
from graceful_forgetting.training.topology import check_topology
from graceful_forgetting.training.trials import SETTINGS, trial_args
from graceful_forgetting.unlearning.base_losses import with_base_losses
from graceful_forgetting.unlearning.objectives import OBJECTIVES
from graceful_forgetting.unlearning.objectives import Need as ObjectiveNeed
from graceful_forgetting.unlearning.trainer import CHECKPOINT_FOLDER, UnlearningTrainer
from graceful_forgetting.unlearning.updates import UnlearningUpdates, load_rows

logger = logging.getLogger(__name__)

BASELINE_FILE = "baseline.json"


class LWFTrainer(UnlearningTrainer):
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
        preparation: Preparation | None = None,
        **keywords: Any,
    ):
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
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
        self._baseline_class = None if args.baseline is None else BASELINES[args.baseline]
        self._check_baseline(model, args)
        if self._forget_dataset is not None and (args.unlearn_every > 0 or self._needs(BaselineNeed.SELF_KNOWLEDGE)):
            check_forget_dataset(self._forget_dataset, args)
        super().__init__(model, args, *positional, **keywords)
        self._check_backend()

    @property
    def unlearning_enabled(self) -> bool:
        """Whether this run unlearns at all."""
        return self._has_self_knowledge and self.args.unlearn_every > 0

    @property
    def _has_self_knowledge(self) -> bool:
        return self._forget_dataset is not None or self.preparation is not None

    def _needs(self, need: BaselineNeed) -> bool:
        return self._baseline_class is not None and need in self._baseline_class.needs

    def _check_baseline(self, model: str | PreTrainedModel | PeftModel, args: LWFConfig) -> None:
        if self._needs(BaselineNeed.SELF_KNOWLEDGE) and not self._has_self_knowledge:
            raise ValueError(
                f"baseline={args.baseline!r} needs the base model's self-knowledge: pass forget_dataset (with "
                "unlearn_every=0 nothing of it is unlearned)"
            )
        if self._needs(BaselineNeed.FULL_MODEL) and isinstance(model, PeftModel):
            raise ValueError(
                f"baseline={args.baseline!r} changes all weights of the model, and an adapter is trained: train the "
                "model itself"
            )

    def _check_backend(self) -> None:
        if self._needs(BaselineNeed.FULL_MODEL) and isinstance(self.model, PeftModel):
            self._check_baseline(self.model, self.args)
        if self.args.baseline is not None and self.compute_loss_func is not None:
            raise ValueError(
                f"compute_loss_func cannot be used with baseline={self.args.baseline!r}, which adds to the loss of TRL"
            )
        if not self.unlearning_enabled and self.args.baseline is None:
            return
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        check_topology(self.args, self.accelerator.distributed_type, plugin)
        if isinstance(self.processing_class, ProcessorMixin):
            raise ValueError(
                f"processing_class is a {type(self.processing_class).__name__}: unlearning and baselines are for text "
                "alone. Pass its `.tokenizer`, with rows of text"
            )
        if isinstance(self.model, PeftModel) and self.model.active_peft_config.is_prompt_learning:
            raise ValueError(
                f"peft_config adds virtual tokens ({self.model.active_peft_config.peft_type.value}), which shift the "
                "logits against the labels: use LoRA or train the model itself"
            )
        self._check_learning_rows()
        if self.optimizer is not None and self._has_reference_run():
            raise ValueError(
                "optimizers holds an optimizer of this model's parameters, which the reference run cannot share: pass "
                "optimizer_cls_and_kwargs, which both runs make theirs from, or a forget_dataset that is already "
                f"scored (column {SCORE_COLUMN})"
            )
        # A preparation has what trials chose already.
        if self.args.forget_trials != "none" and self.unlearning_enabled and self.preparation is None:
            self._check_trials()

    def _check_trials(self) -> None:
        if self.eval_dataset is None:
            raise ValueError(
                f"forget_trials={self.args.forget_trials!r} needs held-out learning rows to judge trial runs by: pass "
                "eval_dataset, or set forget_trials='none'"
            )
        if self.optimizer is not None:
            raise ValueError(
                "optimizers holds an optimizer of this model's parameters, which trial runs cannot share: pass "
                "optimizer_cls_and_kwargs, which all runs make theirs from, or set forget_trials='none'"
            )

    def _is_scored(self) -> bool:
        return self._forget_dataset is None or SCORE_COLUMN in self._forget_dataset.column_names

    def _check_learning_rows(self) -> None:
        objective = OBJECTIVES[self.args.unlearn_objective](self.args)
        trains_on_them = self.unlearning_enabled and ObjectiveNeed.LEARNING in objective.needs
        scores = SCORERS[self.args.confidence_scorer].needs & {ScorerNeed.POSTERIOR, ScorerNeed.LEARNING}
        check_single_examples(
            self.train_dataset,
            self.args,
            all_are_read=self.args.baseline is not None or trains_on_them,
            some_are_read=bool(scores) and not self._is_scored(),
        )

    def _has_reference_run(self) -> bool:
        scored = self._is_scored() or ScorerNeed.POSTERIOR not in SCORERS[self.args.confidence_scorer].needs
        return self._needs(BaselineNeed.POSTERIOR) or (self.unlearning_enabled and not scored)

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
        self._place_whole_model()
        with preserved_rng():
            self.preparation = prepare_unlearning(
                self.model,
                self.args,
                self.train_dataset,
                self._forget_dataset,
                self.processing_class,
                self._reference_arguments,
                self.chat_template,
                self._trial_loss,
                with_plain=self._may_fall_back and not self._is_scored() and self.optimizer is None,
            )
        return self.preparation

    def _trial_loss(self, preparation: Preparation) -> float:
        """Held-out loss after a trial run that unlearns what `preparation` selects; the model comes back as it was."""
        with restored_weights(self.model):
            trial = LWFTrainer(
                self.model,
                trial_args(self.args, Path(self.args.output_dir) / "work" / "trial"),
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
        with preserved_rng():
            if self.args.baseline is not None:
                self._base_weights = fingerprint_model(self.model)["weights"]
                self._check_base_weights(checkpoint)
                self.baseline = self._make_baseline(checkpoint)
            if self.unlearning_enabled:
                self._take_over_settings(checkpoint)
                self._updates = self._make_updates(checkpoint)
            # The last thing to happen at θ_base.
            if self.baseline is not None and checkpoint is None:
                self.baseline.before_training(self.model)
        output = super().train(resume_from_checkpoint, *positional, **keywords)
        self._keep_better(checkpoint)
        return output

    def _take_over_settings(self, checkpoint: Path | None) -> None:
        """Unlearn in the way that trial runs have chosen, if they have; the caller's settings stay as they are."""
        if self.preparation is None and self.args.forget_trials != "both":
            return
        chosen = self._prepared(checkpoint).audit.get(SETTINGS, {})
        if chosen:
            self.args = changed(self.args, **chosen)

    @property
    def _may_fall_back(self) -> bool:
        return self.args.guard_fallback and self.unlearning_enabled and self.eval_dataset is not None

    def _keep_better(self, checkpoint: Path | None) -> None:
        """Fall back to plain fine-tuning where it has the lower held-out loss, see `guard_fallback`."""
        if not self._may_fall_back:
            return
        preparation = self.preparation
        if preparation is None and checkpoint is not None and has_preparation(preparation_folder(self.args)):
            # The model has left θ_base, by which its posterior is known.
            preparation = load_preparation(preparation_folder(self.args), None)
        plain = None if preparation is None else preparation.plain_weights()
        if plain is not None:
            self.keep_better(plain)

    def _make_updates(self, checkpoint: Path | None) -> UnlearningUpdates:
        args = self.args
        objective_needs = OBJECTIVES[args.unlearn_objective](args).needs
        if checkpoint is None:
            preparation = self._prepared(checkpoint)
            selected = preparation.selected
            if ObjectiveNeed.BASE_LOSSES in objective_needs:
                self._place_whole_model()
                selected = with_base_losses(selected, self.model, args.confidence_batch_size)
            rows = selected, self._retained(preparation)
        else:
            rows = load_rows(checkpoint / CHECKPOINT_FOLDER)
        return UnlearningUpdates(
            rows[0],
            args,
            lambda: self.model.parameters(),
            retained=rows[1],
            learning=single_examples(self.train_dataset) if ObjectiveNeed.LEARNING in objective_needs else None,
        )

    def _retained(self, preparation: Preparation) -> Dataset | None:
        if not self.args.unlearn_retain_weight:
            return None
        return select_retained(preparation.scored, preparation.selected)

    def _prepared(self, checkpoint: Path | None) -> Preparation:
        """The stages before training: as given, as done before, as the interrupted run left them, or done now."""
        if self.preparation is None and checkpoint is not None:
            self.preparation = load_preparation(preparation_folder(self.args), self.model)
        return self.preparation or self.prepare_unlearning()

    def _make_baseline(self, checkpoint: Path | None) -> Baseline:
        assert self._baseline_class is not None
        prepared = self._prepared(checkpoint) if self._needs(BaselineNeed.SELF_KNOWLEDGE) else None
        return self._baseline_class(
            BaselineContext(
                model=self.model,
                args=self.args,
                learning=single_examples(self.train_dataset),
                self_knowledge=None if prepared is None else prepared.scored,
                selected=None if prepared is None else prepared.selected,
                posterior=self._learning_posterior(checkpoint) if self._needs(BaselineNeed.POSTERIOR) else None,
                fine_tune=self._fine_tune,
            )
        )

    def _learning_posterior(self, checkpoint: Path | None) -> LearningPosterior:
        if self.unlearning_enabled and checkpoint is None:
            self._prepared(checkpoint)
        if self.preparation is not None and self.preparation.posterior is not None:
            return self.preparation.posterior
        folder = preparation_folder(self.args)
        if checkpoint is not None:
            return LearningPosterior.from_pretrained(folder / POSTERIOR_FOLDER, model=self.model)
        posterior, _ = prepare_posterior(
            self.model, self.args, self.train_dataset, self.processing_class, self._reference_arguments
        )
        if self.args.process_index == 0:
            posterior.save_pretrained(folder / POSTERIOR_FOLDER)
            shutil.rmtree(Path(self.args.output_dir) / "work" / "posterior", ignore_errors=True)
        return posterior

    def _fine_tune(self, rows: Dataset, updates: int) -> None:
        args = changed(reference_args(self.args, Path(self.args.output_dir) / "work" / "baseline"), max_steps=updates)
        train_reference(self.model, args, rows, self.processing_class, **self._reference_arguments)

    def _check_base_weights(self, checkpoint: Path | None) -> None:
        """A baseline measures θ_base again when a run is resumed, so the model must start from the same weights."""
        if checkpoint is None:
            return
        file = checkpoint / BASELINE_FILE
        if not file.is_file() or read_json(file)["base_weights"] != self._base_weights:
            raise ValueError(
                f"resume_from_checkpoint={str(checkpoint)!r} with baseline={self.args.baseline!r}: the checkpoint was "
                "written by a run from another base model, or without a baseline. Pass the model that the interrupted "
                "run started from, and the same settings"
            )

    def _checkpoint(self, resume_from_checkpoint: str | bool | None) -> Path | None:
        if isinstance(resume_from_checkpoint, str):
            return Path(resume_from_checkpoint)
        last = get_last_checkpoint(self.args.output_dir) if resume_from_checkpoint else None
        return None if last is None else Path(last)

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.baseline is not None and self.args.should_save:
            write_json(Path(output_dir) / BASELINE_FILE, {"base_weights": self._base_weights})

    # Model card ------------------------------------------------------------------------------------------------------

    def create_model_card(self, *positional: Any, **keywords: Any) -> None:
        """As `SFTTrainer.create_model_card`, with what was forgotten, the settings of the method and its numbers."""
        super().create_model_card(*positional, **keywords)
        if not self.is_world_process_zero():
            return
        samples = 0 if self._updates is None else len(self._updates.samples)
        preparation = self.preparation if self.unlearning_enabled else None
        summary = self.unlearning_summary()
        section = card_section(self.args, samples, preparation, self.state.log_history, summary)
        add_section(Path(self.args.output_dir) / "README.md", section)
