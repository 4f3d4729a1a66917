"""Gradient ascent that leaves a sample alone once it is forgotten."""

from torch import Tensor


def bounded_ascent(losses: Tensor, loss_cap: float) -> Tensor:
    """−min(L(x), cap): ascent with no gradient for samples whose loss has reached the cap.

    Relations: equal to `gradient_ascent` below the cap.

    Args:
        losses: shape (batch,), L(x) in nats per token.
        loss_cap: nats per token. The loss of a uniform guess is the logarithm of the vocabulary size.

    Returns:
        shape (batch,).
    """
    return -losses.clamp(max=loss_cap)
