"""The base model's loss of a sample."""

from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class LossScorer:
    """L(x; θ_base), nats per token: high where the base model is unsure of its own answer."""

    needs = frozenset({Need.FORWARD})

    def score(self, measured: Measured) -> Tensor:
        return measured.loss
