"""The scorers by name."""

from graceful_forgetting.confidence.gradient_conflict import GradientConflictScorer
from graceful_forgetting.confidence.gradient_cosine import GradientCosineScorer
from graceful_forgetting.confidence.interference import InterferenceScorer
from graceful_forgetting.confidence.linear import LinearScorer
from graceful_forgetting.confidence.loss import LossScorer
from graceful_forgetting.confidence.lwf import LWFScorer
from graceful_forgetting.confidence.overlap import OverlapScorer
from graceful_forgetting.confidence.pairwise_conflict import PairwiseConflictScorer
from graceful_forgetting.confidence.random import RandomScorer
from graceful_forgetting.confidence.scorer import Scorer
from graceful_forgetting.config import ScorerName

SCORERS: dict[ScorerName, Scorer] = {
    "lwf": LWFScorer(),
    "linear": LinearScorer(),
    "overlap": OverlapScorer(),
    "interference": InterferenceScorer(),
    "loss": LossScorer(),
    "gradient_conflict": GradientConflictScorer(),
    "gradient_cosine": GradientCosineScorer(),
    "pairwise_conflict": PairwiseConflictScorer(),
    "random": RandomScorer(),
}
