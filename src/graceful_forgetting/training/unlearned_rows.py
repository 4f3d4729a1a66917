"""What a training run unlearns and retains."""

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import IGNORE_INDEX, OTHER_OPTIONS
from graceful_forgetting.data.answers import special_token_ids
from graceful_forgetting.data.learning_rows import single_examples
from graceful_forgetting.selection import select_retained
from graceful_forgetting.training.preparation import Preparation
from graceful_forgetting.unlearning.base_losses import with_base_losses
from graceful_forgetting.unlearning.objectives import Need, objective_of


def objective_needs(args: LWFConfig) -> frozenset[Need]:
    """What the objective of these settings reads."""
    return objective_of(args).needs


def first_rows(
    model: PreTrainedModel | PeftModel,
    args: LWFConfig,
    preparation: Preparation,
    processing_class: PreTrainedTokenizerBase,
) -> tuple[Dataset, Dataset | None]:
    """The samples to unlearn from the start, and those to retain, if any; `model` is whole and at θ_base."""
    selected = preparation.selected
    if not objective_of(args).unlearns_end:
        selected = without_ends(selected, processing_class)
    if Need.BASE_LOSSES in objective_needs(args):
        selected = with_base_losses(selected, model, args.confidence_batch_size)
    return selected, _retained(args, preparation)


def _retained(args: LWFConfig, preparation: Preparation) -> Dataset | None:
    if not args.unlearn_retain_weight:
        return None
    return select_retained(preparation.scored, preparation.selected)


def learning_rows(train_dataset: Dataset, args: LWFConfig) -> Dataset | None:
    """The learning rows that the objective reads; none where it reads none."""
    return single_examples(train_dataset) if Need.LEARNING in objective_needs(args) else None


def without_ends(rows: Dataset, processing_class: PreTrainedTokenizerBase) -> Dataset:
    """The rows with `labels` that count an answer up to the special token that ends it, at least its first.

    Answers with `other_options` keep theirs: it is a part of what is compared, and of their share nothing.
    """
    special = special_token_ids(processing_class)

    def shortened(labels: list[int]) -> list[int]:
        counted = [place for place, label in enumerate(labels) if label != IGNORE_INDEX]
        end = next((place for place in counted[1:] if labels[place] in special), len(labels))
        return labels[:end] + [IGNORE_INDEX] * (len(labels) - end)

    columns = rows.with_format(None)[:]
    options = columns.get(OTHER_OPTIONS, [None] * len(rows))
    labels = [own if has else shortened(own) for own, has in zip(columns["labels"], options, strict=True)]
    return rows.remove_columns(["labels"]).add_column("labels", labels, feature=rows.features["labels"])
