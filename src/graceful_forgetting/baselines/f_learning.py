"""F-Learning: forget before learning, by arithmetic on weights."""

import torch
from transformers import PreTrainedModel

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, Need
from graceful_forgetting.baselines.quadratic import trained_parameters
from graceful_forgetting.posterior.reference import restored_weights


class FLearning(Baseline):
    """θ ← θ_base − λ (θ_self − θ_base) before training, θ_self fine-tuned on the selected self-knowledge.

    λ = `baseline_weight`; θ_self takes `steps` updates (an option) with the settings of the run. In the source the old
    facts of an editing set take the place of the selected self-knowledge.

    Source: Ni et al., *Forgetting before Learning: Utilizing Parametric Arithmetic for Knowledge Updating in Large
    Language Models*, ACL 2024, arXiv 2311.08011. Its λ was not found in what could be read; the default 0.3 is this
    project's.

    Relations: task arithmetic (Ilharco et al., arXiv 2212.04089) in one step, where gradient ascent takes many.
    """

    needs = frozenset({Need.SELF_KNOWLEDGE})

    def __init__(self, context: BaselineContext) -> None:
        assert context.selected is not None
        if len(context.selected) == 0:
            raise ValueError(
                "baseline='f_learning' subtracts what fine-tuning on the selected self-knowledge changes, and no score "
                "reaches forget_threshold: lower it"
            )
        self.weight = context.args.baseline_strength
        self._steps = context.args.baseline_option("steps")
        self._rows = context.selected.select_columns(["input_ids", "labels"])
        self._fine_tune = context.fine_tune

    def before_training(self, model: PreTrainedModel) -> None:
        parameters = trained_parameters(model)
        with restored_weights(model):
            self._fine_tune(self._rows, self._steps)
            tuned = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.sub_(self.weight * (tuned[name] - parameter))
