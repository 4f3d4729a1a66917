"""Gradient ascent that leaves a token alone once it is forgotten."""

from torch import Tensor

from graceful_forgetting.unlearning.objectives.objective import Need, UnlearningBatch


class BoundedTokens:
    """−mean over counted tokens of min(−log p, cap): ascent with no gradient for tokens whose loss has reached the cap.

    Relations: `BoundedAscent` compares the mean over a sample with the cap, and so goes on raising the loss of a token
    that is forgotten while the others of its sample are not; equal to it for answers of one token.

    Args:
        loss_cap: nats. The loss of a uniform guess is the logarithm of the vocabulary size.
    """

    needs: frozenset[Need] = frozenset()

    def __init__(self, loss_cap: float) -> None:
        self.loss_cap = loss_cap

    def values(self, batch: UnlearningBatch) -> Tensor:
        return -batch.mean((-batch.log_probs).clamp(max=self.loss_cap))

    def active(self, batch: UnlearningBatch) -> Tensor:
        return batch.mean((-batch.log_probs.detach() < self.loss_cap).float())
