"""What the scores of a run are called, and their unit."""

from collections.abc import Mapping
from typing import Any

from graceful_forgetting.results.arms import capitalised

# The formulas are in `confidence/scorers.py`.
_SCORES = {
    "lwf": ("forgetting confidence", "nats"),
    "linear": ("linear term of forgetting confidence", "nats"),
    "overlap": ("quadratic term of forgetting confidence", "nats"),
    "interference": ("interference", "nats per token"),
    "token_interference": ("interference by token", "Hellinger distance"),
    "loss": ("loss of the base model", "nats per token"),
    "gradient_conflict": ("gradient conflict", ""),
    "gradient_cosine": ("gradient conflict", "cosine"),
    "pairwise_conflict": ("pairwise conflict", "cosine"),
    "random": ("random score", ""),
}


def score_name(config: Mapping[str, Any]) -> tuple[str, str]:
    """Name and unit of the score that these settings rank by; without a scorer they are of forgetting confidence.

    Of a scorer of the user's own: its name without the module, and no unit.
    """
    scorer = str(config.get("confidence_scorer", "lwf"))
    return _SCORES.get(scorer, (scorer.rpartition(":")[2], ""))


def score_label(config: Mapping[str, Any]) -> str:
    """Name and unit as a heading: "Interference (nats per token)"."""
    name, unit = score_name(config)
    return capitalised(name) + (f" ({unit})" if unit else "")
