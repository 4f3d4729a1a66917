"""The quadratic term of forgetting confidence alone."""

from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class OverlapScorer:
    """½ α² Σ F g²: how much of a step on x falls on parameters that the learning task depends on."""

    needs = frozenset({Need.POSTERIOR, Need.GRADIENTS})

    def score(self, measured: Measured) -> Tensor:
        return measured.quadratic
