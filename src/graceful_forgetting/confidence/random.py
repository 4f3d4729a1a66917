"""A score without meaning, to compare the others with."""

import numpy
import torch
from torch import Tensor

from graceful_forgetting.confidence.scorer import Measured, Need


class RandomScorer:
    """Uniform in [0, 1), from the seed and the row's position."""

    needs: frozenset[Need] = frozenset()

    def score(self, measured: Measured) -> Tensor:
        drawn = torch.from_numpy(numpy.random.default_rng(measured.seed).random(len(measured.usable)))
        return drawn.masked_fill(~measured.usable, torch.nan)
