"""Stage 2: the reference run, the diagonal Fisher information, and the `LearningPosterior` made of both.

Imports `gradients`, `data`, `config` and `runtime`.
"""

from graceful_forgetting.posterior.divergence import NonFiniteLossError
from graceful_forgetting.posterior.learning_posterior import LearningPosterior, estimate_posterior

__all__ = ["LearningPosterior", "NonFiniteLossError", "estimate_posterior"]
