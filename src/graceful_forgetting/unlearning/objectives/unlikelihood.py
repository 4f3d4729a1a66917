"""Unlikelihood of every token."""

import torch
from torch import Tensor

from graceful_forgetting.unlearning.objectives.objective import Need, UnlearningBatch, all_active

# Added to 1 − p: where p rounds to 1 the logarithm and its gradient stay finite.
_EPSILON = 1e-6


class Unlikelihood:
    """Mean over counted tokens of −log(1 − p), p the probability of the token.

    Its gradient by the token's logit is p: largest where the model is sure, and gone where the token is forgotten.

    Source: Welleck et al., *Neural Text Generation with Unlikelihood Training*, ICLR 2020, arXiv 1908.04319, equation
    4, with the sample's own tokens as negative candidates.

    Relations: bounded below by 0, where `GradientAscent` has no bound; works token by token, where `SimNPO` judges the
    answer as a whole.
    """

    needs: frozenset[Need] = frozenset()

    def values(self, batch: UnlearningBatch) -> Tensor:
        return batch.mean(-torch.log(-torch.expm1(batch.log_probs) + _EPSILON))

    def active(self, batch: UnlearningBatch) -> Tensor:
        return all_active(batch)
