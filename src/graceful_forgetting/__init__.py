"""Graceful forgetting: fine-tune a language model while it unlearns what gets in the way.

The public names are imported on first use (PEP 562): importing TRL takes seconds, which `graceful --help` need not
wait for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graceful_forgetting.runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from graceful_forgetting.confidence import score_confidence
    from graceful_forgetting.config import (
        ConfidenceConfig,
        ElicitationConfig,
        LWFConfig,
        PosteriorConfig,
        SelectionConfig,
    )
    from graceful_forgetting.elicitation import elicit_self_knowledge
    from graceful_forgetting.posterior import LearningPosterior, NonFiniteLossError, estimate_posterior
    from graceful_forgetting.selection import select_for_unlearning
    from graceful_forgetting.training.trainer import LWFTrainer

_HOME = {
    "ConfidenceConfig": "config",
    "ElicitationConfig": "config",
    "LWFConfig": "config",
    "LWFTrainer": "training.trainer",
    "LearningPosterior": "posterior",
    "NonFiniteLossError": "posterior",
    "PosteriorConfig": "config",
    "SelectionConfig": "config",
    "elicit_self_knowledge": "elicitation",
    "estimate_posterior": "posterior",
    "score_confidence": "confidence",
    "select_for_unlearning": "selection",
}

__all__ = [
    "ConfidenceConfig",
    "ElicitationConfig",
    "LWFConfig",
    "LWFTrainer",
    "LearningPosterior",
    "NonFiniteLossError",
    "PosteriorConfig",
    "SelectionConfig",
    "elicit_self_knowledge",
    "estimate_posterior",
    "score_confidence",
    "select_for_unlearning",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
