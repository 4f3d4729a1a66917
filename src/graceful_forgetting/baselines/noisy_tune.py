"""NoisyTune: a little noise on every matrix before fine-tuning."""

import torch
from transformers import PreTrainedModel

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, Need
from graceful_forgetting.baselines.quadratic import trained_parameters
from graceful_forgetting.runtime.rng import preserved_rng


class NoisyTune(Baseline):
    """W ← W + U(−λ/2, λ/2) · std(W) for every parameter W on its own, before training.

    λ = `baseline_weight`. The noise depends on `seed` alone. A parameter whose values are all the same, such as the
    weight of a fresh norm, gets none.

    Source: Wu et al., *NoisyTune: A Little Noise Can Help You Finetune Pretrained Language Models Better*, ACL 2022,
    arXiv 2202.12024; λ = 0.15 is the authors'.
    """

    needs = frozenset({Need.FULL_MODEL})

    def __init__(self, context: BaselineContext) -> None:
        self.scale, self.seed = context.args.baseline_strength, context.args.seed

    @torch.no_grad()
    def before_training(self, model: PreTrainedModel) -> None:
        with preserved_rng(seed=self.seed):
            for parameter in trained_parameters(model).values():
                # Drawn on the CPU: the same on every device, and for every dtype.
                noise = self.scale * (torch.rand(parameter.shape) - 0.5)
                parameter.add_(noise.to(parameter) * parameter.std(correction=0))
