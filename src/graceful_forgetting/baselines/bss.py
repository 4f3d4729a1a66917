"""Batch spectral shrinkage."""

import torch
from torch import Tensor

from graceful_forgetting.baselines.baseline import Baseline, BaselineContext, LearningBatch


class BSS(Baseline):
    """η Σ_{i ≤ k} σ_i², σ_1 ≤ σ_2 ≤ … the smallest singular values of the batch's feature matrix.

    Its rows are the last hidden states at the positions that predict a completion token, so that the matrix is (tokens
    of the pass, width). η = `baseline_weight`, k is the option `singular_values`. The term depends on what is together
    in one pass: unlike a loss it does not split into micro-batches.

    Source: Chen et al., *Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
    Learning*, NeurIPS 2019, equation 5; η = 1e-3 and k = 1 are the authors'. There the features of a batch are pooled,
    one row an image or a sentence; a causal language model predicts from each position.
    """

    def __init__(self, context: BaselineContext) -> None:
        self.weight = context.args.baseline_strength
        self.count = context.args.baseline_option("singular_values")

    def penalty(self, batch: LearningBatch) -> Tensor:
        features = batch.hidden_states[batch.mask]
        # In descending order; there is no decomposition in less than float32.
        values = torch.linalg.svdvals(features.to(torch.promote_types(features.dtype, torch.float32)))
        return self.weight * values[-self.count :].square().sum()
