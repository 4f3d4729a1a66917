"""Forgetting confidence of self-knowledge, and the per-sample gradients that it needs."""

from graceful_forgetting.confidence.oracle import ConfidenceValues, oracle_confidence_terms, oracle_fisher
from graceful_forgetting.confidence.scoring import score_confidence

__all__ = ["ConfidenceValues", "oracle_confidence_terms", "oracle_fisher", "score_confidence"]
