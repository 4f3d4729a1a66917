"""What a training run unlearns and retains: of a preparation, and anew during training."""

from collections.abc import Callable
from dataclasses import replace

from datasets import Dataset, IterableDataset
from peft import PeftModel
from transformers import PreTrainedModel

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.selection import select_retained
from graceful_forgetting.training.preparation import Preparation, score_again
from graceful_forgetting.unlearning.base_losses import with_base_losses
from graceful_forgetting.unlearning.objectives import OBJECTIVES, Need


def objective_needs(args: LWFConfig) -> frozenset[Need]:
    """What the objective of these settings reads."""
    return OBJECTIVES[args.unlearn_objective](args).needs


def first_rows(
    model: PreTrainedModel | PeftModel, args: LWFConfig, preparation: Preparation
) -> tuple[Dataset, Dataset | None]:
    """The samples to unlearn from the start, and those to retain, if any; `model` is whole and at θ_base."""
    selected = preparation.selected
    if Need.BASE_LOSSES in objective_needs(args):
        selected = with_base_losses(selected, model, args.confidence_batch_size)
    return selected, _retained(args, preparation)


def renewal(
    model: PreTrainedModel | PeftModel,
    args: LWFConfig,
    preparation: Preparation,
    train_dataset: Dataset | IterableDataset,
) -> Callable[[], tuple[Dataset, Dataset | None]]:
    """Scores the self-knowledge at the weights of the moment; gives the samples to unlearn and those to retain.

    Args:
        model: that is trained, at θ_base when this is called.
        args: settings of the run.
        preparation: with the posterior where the scorer reads one.
        train_dataset: learning rows.
    """
    pool = preparation
    if Need.BASE_LOSSES in objective_needs(args):
        pool = replace(pool, scored=with_base_losses(pool.scored, model, args.confidence_batch_size))

    def renew() -> tuple[Dataset, Dataset | None]:
        again = score_again(model, args, pool, train_dataset)
        return again.selected, _retained(args, again)

    return renew


def _retained(args: LWFConfig, preparation: Preparation) -> Dataset | None:
    if not args.unlearn_retain_weight:
        return None
    return select_retained(preparation.scored, preparation.selected, args.unlearn_retain_fraction)
