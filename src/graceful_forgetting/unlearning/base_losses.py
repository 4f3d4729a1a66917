"""What the base model thought of the samples before anything was unlearned."""

from datasets import Dataset, Value
from transformers import PreTrainedModel

from graceful_forgetting.confidence.measure import LOSS, ForwardMeasurement

BASE_LOSS_COLUMN = "base_loss"


def with_base_losses(samples: Dataset, model: PreTrainedModel, batch_size: int) -> Dataset:
    """Add the column `base_loss`: L(x) in nats per token at the model's present weights, from forward passes.

    A data set that has the column comes back as it is. The model is left as it was, and no random number is drawn.

    Args:
        samples: tokenised rows (`input_ids`, `labels`), each with a token that counts.
        model: at θ_base.
        batch_size: rows per forward pass; does not change the result but by rounding.
    """
    if BASE_LOSS_COLUMN in samples.column_names:
        return samples
    with ForwardMeasurement(model, samples) as measurement:
        parts = [
            measurement.measure(range(start, min(start + batch_size, len(samples))))[:, LOSS]
            for start in range(0, len(samples), batch_size)
        ]
    losses = [loss for part in parts for loss in part.tolist()]
    return samples.add_column(BASE_LOSS_COLUMN, losses, feature=Value("float64"))
