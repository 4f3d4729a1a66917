"""Elastic weight consolidation towards the base model."""

from dataclasses import replace

from torch import Tensor

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, LearningBatch, Need
from graceful_forgetting.baselines.quadratic import QuadraticPenalty, trained_parameters
from graceful_forgetting.posterior.fisher import estimate_fisher


class EWC(Baseline):
    """λ/2 Σ F (θ − θ_base)², F the diagonal Fisher information of the self-knowledge at θ_base, λ = `baseline_weight`.

    F is that of the old task, as in the source; the base model's own answers stand for its data, which are out of reach
    (as in the generative replay of Heng & Soh, *Selective Amnesia*, NeurIPS 2023, arXiv 2305.10120). Estimator, number
    of samples, draws and seed are those of the posterior (`posterior_*`); all trained parameters are covered.

    Source: Kirkpatrick et al., *Overcoming Catastrophic Forgetting in Neural Networks*, PNAS 2017, arXiv 1612.00796,
    equation 3. λ depends on the scale of F; the default 1000 is this project's.

    Relations: keeps old knowledge, where graceful forgetting gives some up; `AFEC` pulls to the new task instead.
    """

    needs = frozenset({Need.SELF_KNOWLEDGE})

    def __init__(self, context: BaselineContext) -> None:
        assert context.self_knowledge is not None
        self.weight = context.args.baseline_strength
        config = replace(context.args.posterior_config(), parameters="trainable")
        rows = context.self_knowledge.select_columns(["input_ids", "labels"])
        parameters = trained_parameters(context.model)
        self._penalty = QuadraticPenalty(parameters, parameters, estimate_fisher(context.model, rows, config))

    def penalty(self, batch: LearningBatch) -> Tensor:  # noqa: ARG002 (a property of the weights alone)
        return self.weight * self._penalty.value()
