"""Forgetting confidence: how far from the learning task's posterior a sample pulls the model."""

from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class LWFScorer:
    """FC(x) = ½ Σ F Δ² − α ⟨F Δ, g⟩ + ½ α² Σ F g².

    Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv 2505.19715.
    """

    needs = frozenset({Need.POSTERIOR, Need.GRADIENTS})

    def score(self, measured: Measured) -> Tensor:
        return measured.constant + measured.linear + measured.quadratic
