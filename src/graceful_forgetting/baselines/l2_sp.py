"""L2-SP: weight decay towards the starting point."""

from torch import Tensor

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, LearningBatch
from graceful_forgetting.baselines.quadratic import QuadraticPenalty, trained_parameters


class L2SP(Baseline):
    """α/2 ‖θ − θ_base‖², α = `baseline_weight`.

    Source: Li, Grandvalet, Davoine, *Explicit Inductive Bias for Transfer Learning with Convolutional Networks*, ICML
    2018, arXiv 1802.01483 (its first author is cited as Xuhong, too). The second term there, plain weight decay of new
    layers, has no counterpart: a language model gets none. α is tuned per task there; the default 0.01 is this
    project's.

    Relations: `EWC` with F = 1.
    """

    def __init__(self, context: BaselineContext) -> None:
        self.weight = context.args.baseline_strength
        parameters = trained_parameters(context.model)
        self._penalty = QuadraticPenalty(parameters, parameters)

    def penalty(self, batch: LearningBatch) -> Tensor:  # noqa: ARG002 (a property of the weights alone)
        return self.weight * self._penalty.value()
