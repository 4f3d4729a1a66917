"""Gives back plain fine-tuning where forgetting did not help."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graceful_forgetting.confidence.measure import exchanged, in_place_of


@dataclass(frozen=True)
class HeldOutComparison:
    """Losses on held-out learning rows, in nats per token.

    Attributes:
        loss: of the model as it was trained.
        plain_loss: of the same model with the weights of plain fine-tuning.
    """

    loss: float
    plain_loss: float

    @property
    def falls_back(self) -> bool:
        """Whether plain fine-tuning is the better one; so it is where the loss of the trained model is not a number."""
        return not self.loss <= self.plain_loss


def keep_better(model: nn.Module, plain: Mapping[str, Tensor], held_out_loss: Callable[[], float]) -> HeldOutComparison:
    """Compare the model with plain fine-tuning, and leave in it the weights that have the lower held-out loss.

    Args:
        model: as it was trained.
        plain: its trainable weights after plain fine-tuning with the same settings, by name.
        held_out_loss: measures the model as it is when called.
    """
    loss = held_out_loss()
    weights = in_place_of(model, plain)
    with exchanged(model, weights):
        comparison = HeldOutComparison(loss, held_out_loss())
    if comparison.falls_back:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
    return comparison
