"""What learning the task did to the loss of a sample."""

from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class InterferenceScorer:
    """L(x; θ*_L) − L(x; θ_base), nats per token: high where the learning task overwrites what the base model knows."""

    needs = frozenset({Need.POSTERIOR, Need.FORWARD})

    def score(self, measured: Measured) -> Tensor:
        return measured.reference_loss - measured.loss
