"""How much a sample's gradient opposes that of the learning example that it conflicts with most."""

from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class PairwiseConflictScorer:
    """max_r −cos(∇L(x), ∇L(r)) over the single learning examples r, at θ_base, without the output layer.

    A fact contradicts one other fact, not the mean of a task: what conflicts with one learning example and is
    indifferent to the rest all but vanishes in `gradient_cosine`, which takes the mean gradient of all. The output
    layer is left out, since its gradient tells which token is wanted, whatever was asked; the layers before tell what
    was asked. It needs no reference run and no Fisher information. A gradient of 0 scores 0; scores lie between −1
    and 1.

    A maximum over examples, as in the selection of data by Xia et al. (LESS, ICML 2024, arXiv 2402.04333), whose
    maximum is over subtasks, and of agreement in place of conflict.
    """

    needs = frozenset({Need.LEARNING, Need.PAIRS})

    def score(self, measured: Measured) -> Tensor:
        return -measured.least_cosine
