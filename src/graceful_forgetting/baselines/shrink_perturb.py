"""Shrink and perturb: part of the way back to a new model."""

import torch
from transformers import PreTrainedModel

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, Need
from graceful_forgetting.runtime.rng import preserved_rng


class ShrinkPerturb(Baseline):
    """θ ← λ θ_base + ρ θ_new before training, θ_new freshly initialised.

    λ and ρ are the options `shrink` and `noise`. The noise is a new model of the same configuration, so that each
    parameter gets noise of its own initial spread, and a norm's weight, which starts at 1, a constant.

    Source: Ash & Adams, *On Warm-Starting Neural Network Training*, NeurIPS 2020, arXiv 1910.08475; λ = 0.4 and ρ = 0.1
    are those of the authors' command.
    """

    needs = frozenset({Need.FULL_MODEL})

    def __init__(self, context: BaselineContext) -> None:
        self.shrink, self.noise, self.seed = (
            context.args.baseline_option("shrink"),
            context.args.baseline_option("noise"),
            context.args.seed,
        )

    @torch.no_grad()
    def before_training(self, model: PreTrainedModel) -> None:
        with preserved_rng(seed=self.seed):
            fresh = dict(type(model)(model.config).named_parameters())
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.mul_(self.shrink).add_(self.noise * fresh[name].to(parameter))
