"""Negative preference optimization."""

from torch import Tensor
from torch.nn import functional as F

from graceful_forgetting.unlearning.objectives.objective import Need, UnlearningBatch, all_active

DEFAULT_BETA = 0.1


class NPO:
    """(2/β) log(1 + (π(x) / π_base(x))^β), π the probability of the whole answer.

    With n counted tokens, log π(x) = −n L(x), so that this is −(2/β) log σ(β n (L(x) − L_base(x))). It falls to 0 as
    the answer becomes improbable, and so does its gradient: how much a sample is unlearned fades with how much it has
    been.

    Source: Zhang, Lin, Bai, Mei, *Negative Preference Optimization: From Catastrophic Collapse to Effective
    Unlearning*, COLM 2024, arXiv 2404.05868, equation 3; β = 0.1 is the paper's.

    Relations: for β → 0 its gradient is that of ascent on the summed loss n L(x). `SimNPO` needs no reference.

    Args:
        beta: inverse temperature, above 0.
    """

    needs = frozenset({Need.BASE_LOSSES})

    def __init__(self, beta: float = DEFAULT_BETA) -> None:
        self.beta = beta

    def values(self, batch: UnlearningBatch) -> Tensor:
        assert batch.base_losses is not None
        log_ratio = -batch.lengths * (batch.losses - batch.base_losses)
        return -2 / self.beta * F.logsigmoid(-self.beta * log_ratio)

    def active(self, batch: UnlearningBatch) -> Tensor:
        return all_active(batch)
