"""From a forgetting data set to the samples to unlearn: the stages before training, on a model in memory."""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, concatenate_datasets, load_from_disk
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.confidence.scorer import Need
from graceful_forgetting.confidence.scorers import SCORERS
from graceful_forgetting.config import ForgetAnswers, LWFConfig
from graceful_forgetting.data import context_length, tokenize_dataset
from graceful_forgetting.data.learning_rows import single_examples
from graceful_forgetting.elicitation import elicit_self_knowledge
from graceful_forgetting.posterior import LearningPosterior, estimate_posterior
from graceful_forgetting.posterior.learning_posterior import reference_mean
from graceful_forgetting.posterior.reference import reference_args, restored_weights, stopping_after, train_reference
from graceful_forgetting.runtime.artifacts import atomic_directory, read_json, write_json
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.selection import SOURCE_INDEX, save_selected, select_with_audit
from graceful_forgetting.training.fisher_readers import needs_fisher
from graceful_forgetting.training.trials import Candidate, describe, select_by_trial

logger = logging.getLogger(__name__)

TASK_COLUMN = "forgetting_task"
SCORE_COLUMN = "forgetting_confidence"
POSTERIOR_FOLDER = "posterior"
PLAIN_FILE = "plain.safetensors"
_FOLDER = "preparation"
# Columns that hold, or go with, an answer.
_ANSWERED = ("completion", "messages", "conversations", "text", "input_ids")
_WITH_ANSWER = (*_ANSWERED, "labels", "completion_mask", "assistant_masks")


@dataclass
class Preparation:
    """What the stages before training produced.

    Attributes:
        scored: the self-knowledge, one row a sample, with `forgetting_confidence` and its terms.
        selected: the rows of `scored` that are unlearned.
        audit: what was chosen and why, as JSON types.
        posterior: of the learning task; none when the forgetting set came scored or the scorer needs none.
        reference_log: training log of the reference run; empty when there was none.
        plain: trainable weights of plain fine-tuning by name, for `guard_fallback`; none: those of the posterior, where
            it covers all that is trained and the reference run was a whole one.
    """

    scored: Dataset
    selected: Dataset
    audit: dict[str, Any]
    posterior: LearningPosterior | None = None
    reference_log: list[dict[str, float]] = field(default_factory=list)
    plain: Mapping[str, Tensor] | None = None

    def plain_weights(self) -> Mapping[str, Tensor] | None:
        """Trainable weights of plain fine-tuning by name; none where they are not known whole."""
        if self.plain is not None or self.posterior is None:
            return self.plain
        whole = self.posterior.coverage["space"] == "trainable" and not self.posterior.is_partial()
        finished = self.posterior.metadata.get("reference_fraction", 1.0) == 1.0
        return self.posterior.mean if whole and finished else None


def combine_forget_datasets(forget_dataset: Dataset | Mapping[str, Dataset], text_field: str = "text") -> Dataset:
    """One data set with the column `forgetting_task`; a dict names the tasks.

    Args:
        forget_dataset: what may be forgotten, as one data set or one a task.
        text_field: the column of plain text (TRL's `dataset_text_field`); it becomes `text`.

    Raises:
        TypeError: neither a `Dataset` nor a dict of them.
        ValueError: no rows, or sets whose columns differ.
    """
    if isinstance(forget_dataset, Mapping):
        for name, part in forget_dataset.items():
            if not isinstance(part, Dataset):
                raise TypeError(f"forget_dataset[{name!r}] must be a datasets.Dataset, not {type(part).__name__}")
        named = [
            part.remove_columns([c for c in (TASK_COLUMN,) if c in part.column_names]).add_column(
                TASK_COLUMN, [name] * len(part)
            )
            for name, part in forget_dataset.items()
        ]
        columns = {name: sorted(part.column_names) for name, part in zip(forget_dataset, named, strict=True)}
        if len({tuple(names) for names in columns.values()}) > 1:
            raise ValueError(f"the parts of forget_dataset must have the same columns, but have {columns}")
        forget_dataset = concatenate_datasets(named) if named else Dataset.from_dict({})
    if not isinstance(forget_dataset, Dataset):
        raise TypeError(
            f"forget_dataset must be a datasets.Dataset or a dict of them by task, not {type(forget_dataset).__name__}"
        )
    if len(forget_dataset) == 0:
        raise ValueError("forget_dataset has no rows: give at least one prompt, or set unlearn_every=0")
    present = set(forget_dataset.column_names)
    if text_field in present and not present & {"prompt", *_ANSWERED}:
        forget_dataset = forget_dataset.rename_column(text_field, "text")
    if TASK_COLUMN not in forget_dataset.column_names:
        forget_dataset = forget_dataset.add_column(TASK_COLUMN, ["forget"] * len(forget_dataset))
    return forget_dataset


def nothing_selected(audit: Mapping[str, Any]) -> str:
    """What to tell a user of whose samples none is unlearned; `audit` is that of the selection."""
    if "trials" in audit:
        return "No trial run that unlearns has a lower held-out loss than plain fine-tuning: nothing is unlearned"
    return (
        f"No score reaches forget_threshold={audit['settings']['threshold']:g} (the highest is "
        f"{audit['score_quantiles']['1.0']:g}): nothing is unlearned, and training is plain fine-tuning"
    )


def needs_elicitation(forget_dataset: Dataset, answers: ForgetAnswers | None = None) -> bool:
    """Whether the model answers the prompts itself, by the setting `forget_answers`; unset: if there are no answers."""
    if answers is not None:
        return answers == "self_generated"
    return not set(_ANSWERED) & set(forget_dataset.column_names)


def check_forget_dataset(forget_dataset: Dataset, args: LWFConfig) -> None:
    """Refuse, before a model is loaded, what cannot be scored or unlearned.

    Raises:
        ValueError: no usable columns.
    """
    columns = forget_dataset.column_names
    answers = None if SCORE_COLUMN in columns else args.forget_answers
    if answers == "given" and not set(_ANSWERED) & set(columns):
        raise ValueError(
            f"forget_answers='given' needs answers in forget_dataset (columns {', '.join(_ANSWERED)}); it has "
            f"{', '.join(columns)}. Add them, or use forget_answers='self_generated'"
        )
    if needs_elicitation(forget_dataset, answers) and "prompt" not in columns:
        raise ValueError(
            "forget_dataset needs a column `prompt` (the model answers itself), or answers as well (`prompt` and "
            f"`completion`, `messages`, or `input_ids` and `labels`); it has {', '.join(columns)}"
        )


def prepare_unlearning(
    model: PreTrainedModel | PeftModel,
    args: LWFConfig,
    train_dataset: Dataset | IterableDataset,
    forget_dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    reference_arguments: Mapping[str, Any],
    chat_template: str | None = None,
    trial_loss: Callable[[Preparation], float] | None = None,
    with_plain: bool = False,
) -> Preparation:
    """Elicit, run the reference, estimate the posterior, score and select; whatever `forget_dataset` still needs.

    The model comes back with the weights that it came with. Artefacts go to `<output_dir>/preparation`
    (`scored/`, `selected/`, `selection.json`, `posterior/`) and `<output_dir>/reference` (the plain model); the last
    two only with a scorer that needs the posterior. While it runs, finished parts of the answers, the posterior and
    the scores are in `<output_dir>/work`, from where a second run goes on.

    Args:
        model: at θ_base, on the device of the run.
        args: settings of the run.
        train_dataset: prepared learning rows (`input_ids`, `labels`), packed or not; of a stream, the first
            `args.posterior_num_samples` rows are those that the posterior and the scores are of.
        forget_dataset: rows with a column `forgetting_task`, see `combine_forget_datasets`.
        processing_class: tokenizer with a pad token.
        reference_arguments: of the reference run's trainer, beside the settings: `data_collator` and the like.
        chat_template: that learning messages are rendered with, in place of the tokenizer's own.
        trial_loss: makes a trial run from θ_base, where `args.forget_trials` asks for them; the held-out loss.
        with_plain: the result will be compared with plain fine-tuning, so that a run of it is made where the reference
            run is none, or not a whole one.
    """
    work = Path(args.output_dir) / "work"
    posterior: LearningPosterior | None = None
    reference_log: list[dict[str, float]] = []
    needs = SCORERS[args.confidence_scorer].needs
    as_learned: dict[str, Any] = {"assistant_only": args.assistant_only_loss, "chat_template": chat_template}
    if SCORE_COLUMN in forget_dataset.column_names:
        scored = tokenize_dataset(forget_dataset, processing_class, argument="forget_dataset", **as_learned)
    else:
        if needs_elicitation(forget_dataset, args.forget_answers):
            given = [name for name in _WITH_ANSWER if name in forget_dataset.column_names]
            knowledge = elicit_self_knowledge(
                model,
                processing_class,
                forget_dataset.remove_columns(given),
                args.elicitation_config(),
                resume_dir=work / "self_knowledge",
            )
        else:
            knowledge = tokenize_dataset(
                forget_dataset,
                processing_class,
                max_length=context_length(model.config),
                argument="forget_dataset",
                **as_learned,
            )
        if Need.POSTERIOR in needs:
            posterior, reference_log = prepare_posterior(
                model,
                args,
                train_dataset,
                processing_class,
                reference_arguments,
                with_fisher=needs_fisher(args),
            )
        scored = score_confidence(
            model,
            knowledge,
            posterior,
            args.confidence_config(),
            processing_class,
            learning=single_examples(train_dataset, args.posterior_num_samples) if Need.LEARNING in needs else None,
            resume_dir=work / "scores",
        )
    if SOURCE_INDEX in scored.column_names:
        scored = scored.remove_columns(SOURCE_INDEX)
    selected, audit = _selected(scored, args, trial_loss)
    preparation = Preparation(scored, selected, audit, posterior, reference_log)
    # What is plain fine-tuning anyway needs no comparison, and trials have made it.
    tried = args.forget_trials != "none"
    if with_plain and len(selected) > 0 and not tried and preparation.plain_weights() is None:
        preparation.plain = _plain_weights(model, args, train_dataset, processing_class, reference_arguments)
    if args.process_index == 0:
        save_preparation(preparation, preparation_folder(args))
        for stage in ("self_knowledge", "posterior", "scores", "trial"):
            shutil.rmtree(work / stage, ignore_errors=True)
    logger.info(f"{len(selected)} of {len(scored)} samples are unlearned")
    if len(selected) == 0:
        logger.warning(nothing_selected(audit))
    return preparation


def _plain_weights(
    model: PreTrainedModel | PeftModel,
    args: LWFConfig,
    train_dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase,
    reference_arguments: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Trainable weights after plain fine-tuning, kept in `<output_dir>/plain` too; the model comes back as it was."""
    logger.info("Plain fine-tuning, to compare with")
    with restored_weights(model):
        plain, _ = train_reference(
            model,
            reference_args(args, Path(args.output_dir) / "plain"),
            train_dataset,
            processing_class,
            **reference_arguments,
        )
        plain.save_model()
        return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def _selected(
    scored: Dataset, args: LWFConfig, trial_loss: Callable[[Preparation], float] | None
) -> tuple[Dataset, dict[str, Any]]:
    if args.forget_trials == "none":
        return select_with_audit(scored, **asdict(args.selection_config()))
    assert trial_loss is not None

    def held_out_loss(name: str, candidate: Candidate) -> float:
        logger.info(f"Trial run: unlearning {name}")
        return trial_loss(Preparation(scored, candidate.selected, candidate.audit))

    chosen = select_by_trial(scored, args, held_out_loss)
    logger.info(describe(chosen.audit))
    return chosen.selected, chosen.audit


def prepare_posterior(
    model: PreTrainedModel | PeftModel,
    args: LWFConfig,
    train_dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase,
    reference_arguments: Mapping[str, Any],
    with_fisher: bool = True,
) -> tuple[LearningPosterior, list[dict[str, float]]]:
    """Run the plain reference, keep it in `<output_dir>/reference`, and estimate the posterior.

    Arguments as in `prepare_unlearning` and `estimate_posterior`; the model comes back as it was.

    Returns:
        the posterior and the training log of the reference run.
    """
    config = args.posterior_config()

    def estimated(
        base: PreTrainedModel | PeftModel | Mapping[str, Any],
        reference: PreTrainedModel | PeftModel | Mapping[str, Tensor],
    ) -> LearningPosterior:
        return estimate_posterior(
            base,
            reference,
            single_examples(train_dataset, args.posterior_num_samples),
            config,
            processing_class,
            resume_dir=Path(args.output_dir) / "work" / "posterior",
            with_fisher=with_fisher,
        )

    base_fingerprint = fingerprint_model(model)
    logger.info("Reference run: plain fine-tuning on the learning task")
    with restored_weights(model):
        reference, reference_log = train_reference(
            model,
            reference_args(args, Path(args.output_dir) / "reference"),
            train_dataset,
            processing_class,
            callbacks=stopping_after(args.reference_share),
            **reference_arguments,
        )
        # On every process, since shards are gathered; one writes.
        reference.save_model()
        # One module is at θ_base or at θ*_L: of the other, what was kept of it stands in.
        at_base = with_fisher and config.fisher_at == "base"
        if at_base:
            mean = reference_mean(model, config)
        else:
            posterior = estimated(base_fingerprint, model)
    if at_base:
        posterior = estimated(model, mean)
    posterior.metadata["reference_fraction"] = args.reference_share
    return posterior, reference_log


def preparation_folder(args: LWFConfig) -> Path:
    """Where the artefacts of the stages before training are."""
    return Path(args.output_dir) / _FOLDER


def has_preparation(directory: Path) -> bool:
    """Whether `save_preparation` wrote into this folder."""
    return (directory / "selection.json").is_file()


def load_preparation(directory: Path, model: nn.Module | None) -> Preparation:
    """What `save_preparation` wrote; with `model`, which must be at θ_base, for this base model.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: its posterior is damaged or for another model.
    """
    if not has_preparation(directory):
        raise FileNotFoundError(
            f"{directory} holds no preparation, which this run reads again when it is resumed: keep output_dir as the "
            "interrupted run left it, or pass preparation="
        )
    posterior, plain = directory / POSTERIOR_FOLDER, directory / PLAIN_FILE
    return Preparation(
        scored=load_from_disk(str(directory / "scored")),
        selected=load_from_disk(str(directory / "selected")),
        audit=read_json(directory / "selection.json"),
        posterior=LearningPosterior.from_pretrained(posterior, model=model) if posterior.is_dir() else None,
        reference_log=read_json(directory / "reference_log.json"),
        plain=load_file(plain) if plain.is_file() else None,
    )


def save_preparation(preparation: Preparation, directory: Path) -> None:
    """Write the artefacts of the stages before training, all or none."""
    with atomic_directory(directory) as partial:
        preparation.scored.save_to_disk(str(partial / "scored"))
        save_selected(preparation.selected, partial / "selected")
        write_json(partial / "selection.json", preparation.audit)
        write_json(partial / "reference_log.json", preparation.reference_log)
        if preparation.posterior is not None:
            preparation.posterior.save_pretrained(partial / POSTERIOR_FOLDER)
        if preparation.plain is not None:
            save_file({name: weight.contiguous() for name, weight in preparation.plain.items()}, partial / PLAIN_FILE)
