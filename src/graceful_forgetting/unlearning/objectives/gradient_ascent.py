"""Gradient ascent on the loss, as published."""

from torch import Tensor


def gradient_ascent(losses: Tensor, loss_cap: float) -> Tensor:  # noqa: ARG001 (one signature for all objectives)
    """−L(x): minimising it raises the loss of the self-knowledge without bound.

    Source: Jiang et al., EMNLP 2025, periodic unlearning ("the loss is negated").

    Recommendations: prefer `bounded_ascent` unless the published form is what is wanted. The further a sample is
    unlearned, the larger its gradient, so that long runs end in collapse.

    Args:
        losses: shape (batch,), L(x) in nats per token.
        loss_cap: not used; the objective has no bound.

    Returns:
        shape (batch,).
    """
    return -losses
