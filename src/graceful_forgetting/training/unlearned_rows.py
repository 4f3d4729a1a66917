"""What a training run unlearns and retains."""

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.selection import select_retained
from graceful_forgetting.training.preparation import Preparation
from graceful_forgetting.unlearning.base_losses import with_base_losses
from graceful_forgetting.unlearning.objectives import Need, objective_of


def objective_needs(args: LWFConfig) -> frozenset[Need]:
    """What the objective of these settings reads."""
    return objective_of(args).needs


def first_rows(
    model: PreTrainedModel | PeftModel, args: LWFConfig, preparation: Preparation
) -> tuple[Dataset, Dataset | None]:
    """The samples to unlearn from the start, and those to retain, if any; `model` is whole and at θ_base."""
    selected = preparation.selected
    if Need.BASE_LOSSES in objective_needs(args):
        selected = with_base_losses(selected, model, args.confidence_batch_size)
    return selected, _retained(args, preparation)


def _retained(args: LWFConfig, preparation: Preparation) -> Dataset | None:
    if not args.unlearn_retain_weight:
        return None
    return select_retained(preparation.scored, preparation.selected)
