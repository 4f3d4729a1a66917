"""A uniform guess as the target of every token."""

import math

from torch import Tensor

from graceful_forgetting.unlearning.objectives.objective import Need, UnlearningBatch, all_active


class Uniform:
    """Mean over counted positions of KL(U ‖ p) = −log V − (1/V) Σ_v log p(v), U uniform over the V tokens.

    That is cross-entropy with a uniform target, up to a constant. The other direction, KL(p ‖ U) = log V − H(p), has no
    gradient where the model is sure of its answer, as it is of answers that it decoded greedily.

    Source: the surrogate distribution of Heng & Soh, *Selective Amnesia*, NeurIPS 2023, arXiv 2305.10120, taken as
    uniform over tokens; Yuan et al., *A Closer Look at Machine Unlearning for Large Language Models*, arXiv 2410.08109,
    use the other direction ("maximizing entropy").

    Relations: the answer is not made improbable but as probable as any other, so that it stops at L(x) = log V.
    """

    needs = frozenset({Need.LOGITS})

    def values(self, batch: UnlearningBatch) -> Tensor:
        assert batch.logits is not None
        logits = batch.logits.float()
        mean_log_probability = logits.mean(dim=-1) - logits.logsumexp(dim=-1)
        return batch.mean(-math.log(logits.shape[-1]) - mean_log_probability)

    def active(self, batch: UnlearningBatch) -> Tensor:
        return all_active(batch)
