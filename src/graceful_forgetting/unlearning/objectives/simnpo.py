"""Negative preference optimization without a reference model."""

from torch import Tensor
from torch.nn import functional as F

from graceful_forgetting.unlearning.objectives.objective import Need, UnlearningBatch, all_active

DEFAULT_BETA = 2.5


class SimNPO:
    """−(2/β) log σ(β L(x)): the length-normalised log-probability in place of the ratio to the base model.

    Source: Fan et al., *Simplicity Prevails: Rethinking Negative Preference Optimization for LLM Unlearning*, arXiv
    2410.07163, with the reward margin γ = 0. The default β is this project's choice within the range of the paper's.

    Relations: `NPO` weighs a sample by how far it is from the base model; here a sample that was improbable from the
    start has little gradient.

    Args:
        beta: inverse temperature, above 0.
    """

    needs: frozenset[Need] = frozenset()

    def __init__(self, beta: float = DEFAULT_BETA) -> None:
        self.beta = beta

    def values(self, batch: UnlearningBatch) -> Tensor:
        return -2 / self.beta * F.logsigmoid(self.beta * batch.losses)

    def active(self, batch: UnlearningBatch) -> Tensor:
        return all_active(batch)
