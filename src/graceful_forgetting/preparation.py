"""From a forgetting data set to the samples to unlearn: the stages before training, on a model in memory."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from torch import Tensor, nn
from transformers import DataCollator, PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.artifacts import atomic_directory, write_json
from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.confidence.scorer import Need
from graceful_forgetting.confidence.scorers import SCORERS
from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import context_length, tokenize_dataset
from graceful_forgetting.elicitation import elicit_self_knowledge
from graceful_forgetting.fingerprint import fingerprint_model
from graceful_forgetting.posterior import LearningPosterior, estimate_posterior
from graceful_forgetting.reference import reference_args, train_reference
from graceful_forgetting.selection import SOURCE_INDEX, select_with_audit

logger = logging.getLogger(__name__)

TASK_COLUMN = "forgetting_task"
SCORE_COLUMN = "forgetting_confidence"


@dataclass
class Preparation:
    """What the stages before training produced.

    Attributes:
        scored: the self-knowledge, one row a sample, with `forgetting_confidence` and its terms.
        selected: the rows of `scored` that are unlearned.
        audit: what was chosen and why, as JSON types.
        posterior: of the learning task; none when the forgetting set came scored or the scorer needs none.
        reference_log: training log of the reference run; empty when there was none.
    """

    scored: Dataset
    selected: Dataset
    audit: dict[str, Any]
    posterior: LearningPosterior | None = None
    reference_log: list[dict[str, float]] = field(default_factory=list)


def combine_forget_datasets(forget_dataset: Dataset | Mapping[str, Dataset]) -> Dataset:
    """One data set with the column `forgetting_task`; a dict names the tasks.

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
    if TASK_COLUMN not in forget_dataset.column_names:
        forget_dataset = forget_dataset.add_column(TASK_COLUMN, ["forget"] * len(forget_dataset))
    return forget_dataset


def needs_elicitation(forget_dataset: Dataset) -> bool:
    """Whether the rows are prompts without answers."""
    answered = {"completion", "messages", "input_ids", "text"}
    return not answered & set(forget_dataset.column_names)


def check_forget_dataset(forget_dataset: Dataset, args: LWFConfig) -> None:
    """Refuse, before a model is loaded, what cannot be scored or unlearned.

    Raises:
        ValueError: no usable columns, or packing together with per-sample scoring.
    """
    columns = forget_dataset.column_names
    if needs_elicitation(forget_dataset) and "prompt" not in columns:
        raise ValueError(
            "forget_dataset needs a column `prompt` (the model answers itself), or answers as well (`prompt` and "
            f"`completion`, `messages`, or `input_ids` and `labels`); it has {', '.join(columns)}"
        )
    if args.packing and SCORE_COLUMN not in columns:
        raise ValueError(
            "packing=True cannot be used while forget_dataset is to be scored: the Fisher information is a mean over "
            "single learning examples, and packing joins several in a row. Set packing=False, or pass a forget_dataset "
            f"that is already scored (column {SCORE_COLUMN})"
        )


def prepare_unlearning(
    model: PreTrainedModel | PeftModel,
    args: LWFConfig,
    train_dataset: Dataset,
    forget_dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    data_collator: DataCollator,
) -> Preparation:
    """Elicit, run the reference, estimate the posterior, score and select; whatever `forget_dataset` still needs.

    The model comes back with the weights that it came with. Artefacts go to `<output_dir>/preparation`
    (`scored/`, `selected/`, `selection.json`, `posterior/`) and `<output_dir>/reference` (the plain model); the last
    two only with a scorer that needs the posterior. While it runs, finished parts of the answers, the posterior and
    the scores are in `<output_dir>/work`, from where a second run goes on.

    Args:
        model: at θ_base, on the device of the run.
        args: settings of the run.
        train_dataset: prepared learning rows (`input_ids`, `labels`).
        forget_dataset: rows with a column `forgetting_task`, see `combine_forget_datasets`.
        processing_class: tokenizer with a pad token.
        data_collator: of the learning batches, used by the reference run.
    """
    main_process = args.process_index == 0
    work = Path(args.output_dir) / "work"
    posterior: LearningPosterior | None = None
    reference_log: list[dict[str, float]] = []
    if SCORE_COLUMN in forget_dataset.column_names:
        scored = tokenize_dataset(forget_dataset, processing_class, argument="forget_dataset")
    else:
        if needs_elicitation(forget_dataset):
            knowledge = elicit_self_knowledge(
                model, processing_class, forget_dataset, args.elicitation_config(), resume_dir=work / "self_knowledge"
            )
        else:
            knowledge = tokenize_dataset(
                forget_dataset,
                processing_class,
                max_length=context_length(model.config),
                argument="forget_dataset",
            )
        if Need.POSTERIOR in SCORERS[args.confidence_scorer].needs:
            base_fingerprint = fingerprint_model(model)
            logger.info("Reference run: plain fine-tuning on the learning task")
            with _restored_weights(model):
                reference, reference_log = train_reference(
                    model,
                    reference_args(args, Path(args.output_dir) / "reference"),
                    train_dataset,
                    processing_class,
                    data_collator=data_collator,
                )
                if main_process:
                    reference.save_model()
                posterior = estimate_posterior(
                    base_fingerprint,
                    model,
                    train_dataset,
                    args.posterior_config(),
                    processing_class,
                    resume_dir=work / "posterior",
                )
        scored = score_confidence(
            model, knowledge, posterior, args.confidence_config(), processing_class, resume_dir=work / "scores"
        )
    if SOURCE_INDEX in scored.column_names:
        scored = scored.remove_columns(SOURCE_INDEX)
    selected, audit = select_with_audit(scored, **asdict(args.selection_config()))
    preparation = Preparation(scored, selected, audit, posterior, reference_log)
    if main_process:
        save_preparation(preparation, Path(args.output_dir) / "preparation")
        for stage in ("self_knowledge", "posterior", "scores"):
            shutil.rmtree(work / stage, ignore_errors=True)
    logger.info(f"{len(selected)} of {len(scored)} samples are unlearned")
    return preparation


def save_preparation(preparation: Preparation, directory: Path) -> None:
    """Write the artefacts of the stages before training, all or none."""
    with atomic_directory(directory) as partial:
        preparation.scored.save_to_disk(str(partial / "scored"))
        preparation.selected.save_to_disk(str(partial / "selected"))
        write_json(partial / "selection.json", preparation.audit)
        write_json(partial / "reference_log.json", preparation.reference_log)
        if preparation.posterior is not None:
            preparation.posterior.save_pretrained(partial / "posterior")


@contextmanager
def _restored_weights(model: nn.Module) -> Iterator[None]:
    """Give the model back its trainable weights, its buffers, its mode and its `forward` when the block ends."""
    head = model.get_base_model() if isinstance(model, PeftModel) else model
    forward = head.forward
    training = model.training
    kept: dict[str, Tensor] = {
        name: tensor.detach().clone().cpu()
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
    }
    try:
        yield
    finally:
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *model.named_buffers()):
                if name in kept:
                    tensor.copy_(kept[name])
        for parameter in model.parameters():
            parameter.grad = None
        # A second trainer wraps the forward of the model (fused head, autocast) once more.
        head.forward = forward
        model.train(training)
