"""What the base model thought of the samples before anything was unlearned."""

from collections.abc import Sequence

import torch
from datasets import Dataset, Value
from transformers import PreTrainedModel

from graceful_forgetting.gradients.options import sample_losses
from graceful_forgetting.gradients.undisturbed import differentiating
from graceful_forgetting.runtime.batches import BatchLimit

BASE_LOSS_COLUMN = "base_loss"


def with_base_losses(samples: Dataset, model: PreTrainedModel, batch_size: int) -> Dataset:
    """Add the column `base_loss`: L(x) in nats (see `sample_losses`) at the present weights, from forward passes.

    A data set that has the column comes back as it is. The model is left as it was, and no random number is drawn.

    Args:
        samples: tokenised rows (`input_ids`, `labels`), each with a token that counts.
        model: at θ_base.
        batch_size: rows per forward pass; does not change the result but by rounding.
    """
    if BASE_LOSS_COLUMN in samples.column_names:
        return samples

    def losses_of(indices: Sequence[int]) -> list[float]:
        losses: list[float] = sample_losses(model, samples, indices).tolist()
        return losses

    with differentiating(model, ()), torch.no_grad():
        parts = BatchLimit("The base model's losses", batch_size).in_parts(range(len(samples)), losses_of)
    losses = [loss for part in parts for loss in part]
    return samples.add_column(BASE_LOSS_COLUMN, losses, feature=Value("float64"))
