"""How fast a step on a sample undoes learning."""

from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class GradientConflictScorer:
    """−⟨∇L(x), ḡ_L⟩ at θ_base, ḡ_L the mean gradient of the learning rows.

    The rise of the learning loss for each unit of a descent step on x, to first order, and so its fall for a step of
    ascent. It needs no reference run. The inner product of gradients is the influence of Pruthi et al., *Estimating
    Training Data Influence by Tracing Gradient Descent*, NeurIPS 2020, arXiv 2002.08484, at one checkpoint and with the
    opposite sign.

    Relations: `gradient_cosine` is the same over both norms, and so ranks a sample that is hardly known like one that
    is; the linear term of forgetting confidence (`linear`) is the same with F (θ_base − θ*_L) in place of ḡ_L.
    """

    needs = frozenset({Need.LEARNING})

    def score(self, measured: Measured) -> Tensor:
        return -measured.learning_product
