"""The linear term of forgetting confidence alone."""

from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class LinearScorer:
    """−α ⟨F Δ, g⟩: to first order, what a step on x adds to the distance from the posterior's mean."""

    needs = frozenset({Need.POSTERIOR, Need.GRADIENTS})

    def score(self, measured: Measured) -> Tensor:
        return measured.linear
