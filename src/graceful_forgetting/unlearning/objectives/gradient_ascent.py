"""Gradient ascent on the loss, as published."""

from torch import Tensor

from graceful_forgetting.unlearning.objectives.objective import Need, UnlearningBatch, all_active


class GradientAscent:
    """−L(x): minimising it raises the loss of the self-knowledge without bound.

    Source: Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv 2505.19715, periodic
    unlearning ("the loss is negated").

    Recommendations: prefer `BoundedAscent` unless the published form is what is wanted. The further a sample is
    unlearned, the larger its gradient, so that long runs end in collapse.
    """

    needs: frozenset[Need] = frozenset()

    def values(self, batch: UnlearningBatch) -> Tensor:
        return -batch.losses

    def active(self, batch: UnlearningBatch) -> Tensor:
        return all_active(batch)
