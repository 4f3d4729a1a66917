"""How much a sample's gradient opposes that of the learning task."""

from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class GradientCosineScorer:
    """−cos(∇L(x), ḡ_L) at θ_base, ḡ_L the mean gradient of the learning rows: high where a step on x undoes learning.

    Xia et al., *LESS: Selecting Influential Data for Targeted Instruction Tuning*, ICML 2024, arXiv 2402.04333, select
    the data of highest cosine to learn from; here the lowest are unlearned. LESS takes Adam's update in place of the
    training gradient, projects both at random, and sums over checkpoints; none of that here. A gradient of 0 scores 0.
    """

    needs = frozenset({Need.LEARNING})

    def score(self, measured: Measured) -> Tensor:
        return -measured.learning_cosine
