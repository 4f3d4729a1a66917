"""Settings: one dataclass a stage, and `LWFConfig`, which joins them all to TRL's `SFTConfig`.

A stage field has one home, its stage config. `LWFConfig` repeats it under a prefixed name (`elicitation_batch_size` is
`ElicitationConfig.batch_size`) and takes default and help text from there, so that one flat YAML file or command line
can set everything. Settings of unlearning and of the baselines, which nothing but the trainer reads, are fields of
`LWFConfig` alone.

Imports no other room.
"""

from graceful_forgetting.config.baseline import BaselineName, BaselineSettings
from graceful_forgetting.config.confidence import (
    ConfidenceConfig,
    ScorerName,
    ScoringWeights,
    StepSizeRule,
)
from graceful_forgetting.config.elicitation import ElicitationConfig
from graceful_forgetting.config.lwf import ForgetAnswers, LWFConfig
from graceful_forgetting.config.methods import METHODS, PUBLISHED, MethodName
from graceful_forgetting.config.posterior import (
    FisherAt,
    FisherEstimator,
    ParameterSpace,
    PosteriorConfig,
    PosteriorEstimator,
)
from graceful_forgetting.config.selection import DEFAULT_FORGET_FRACTION, SelectionConfig, SelectionStrategy
from graceful_forgetting.config.unlearning import (
    UnlearningSettings,
    UnlearnObjective,
    UnlearnSchedule,
    UnlearnScheduler,
)

__all__ = [
    "DEFAULT_FORGET_FRACTION",
    "METHODS",
    "PUBLISHED",
    "BaselineName",
    "BaselineSettings",
    "ConfidenceConfig",
    "ElicitationConfig",
    "FisherAt",
    "FisherEstimator",
    "ForgetAnswers",
    "LWFConfig",
    "MethodName",
    "ParameterSpace",
    "PosteriorConfig",
    "PosteriorEstimator",
    "ScorerName",
    "ScoringWeights",
    "SelectionConfig",
    "SelectionStrategy",
    "StepSizeRule",
    "UnlearnObjective",
    "UnlearnSchedule",
    "UnlearnScheduler",
    "UnlearningSettings",
]
