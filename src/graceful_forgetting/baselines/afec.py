"""AFEC's penalty towards the optimum of the new task."""

from torch import Tensor

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, LearningBatch, Need
from graceful_forgetting.baselines.quadratic import QuadraticPenalty, trained_parameters


class AFEC(Baseline):
    """λ_e/2 Σ F_e (θ − θ_e)², with θ_e = θ*_L and F_e = F_L of the learning task's posterior, λ_e = `baseline_weight`.

    Source: Wang et al., *AFEC: Active Forgetting of Negative Transfer in Continual Learning*, NeurIPS 2021, arXiv
    2110.12187: the third term of its loss. There θ_e is an auxiliary copy trained on the new task alone, one epoch
    ahead of the main network, and F_e is recomputed every epoch; here both are the posterior, once. λ_e = 1 is the
    value of the authors' commands for CIFAR-100. The second term, `EWC`, stays off.

    Relations: forgetting confidence is this very term evaluated at θ_base − α ∇L(x).
    """

    needs = frozenset({Need.POSTERIOR})

    def __init__(self, context: BaselineContext) -> None:
        assert context.posterior is not None
        self.weight = context.args.baseline_strength
        posterior = context.posterior
        self._penalty = QuadraticPenalty(trained_parameters(context.model), posterior.mean, posterior.precision)

    def penalty(self, batch: LearningBatch) -> Tensor:  # noqa: ARG002 (a property of the weights alone)
        return self.weight * self._penalty.value()
