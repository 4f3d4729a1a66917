"""Gradient ascent that leaves a sample alone once it is forgotten."""

from torch import Tensor

from graceful_forgetting.unlearning.objectives.objective import Need, UnlearningBatch


class BoundedAscent:
    """−min(L(x), cap): ascent with no gradient for samples whose loss has reached the cap.

    Relations: equal to `GradientAscent` below the cap.

    Args:
        loss_cap: nats per token. The loss of a uniform guess is the logarithm of the vocabulary size.
    """

    needs: frozenset[Need] = frozenset()

    def __init__(self, loss_cap: float) -> None:
        self.loss_cap = loss_cap

    def values(self, batch: UnlearningBatch) -> Tensor:
        return -batch.losses.clamp(max=self.loss_cap)

    def active(self, batch: UnlearningBatch) -> Tensor:
        return (batch.losses.detach() < self.loss_cap).float()
