"""Stage 3: one score a piece of self-knowledge; the scorers, what they read, and `score_confidence`.

Imports `posterior`, `gradients`, `data`, `config` and `runtime`.
"""

from graceful_forgetting.confidence.scoring import score_confidence

__all__ = ["score_confidence"]
