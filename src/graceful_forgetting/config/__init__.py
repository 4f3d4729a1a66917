"""Settings: one dataclass a stage, and `LWFConfig`, which joins them all to TRL's `SFTConfig`.

A stage field is written once, in its stage config. `LWFConfig` has it under a prefixed name (`elicitation_batch_size`
is `ElicitationConfig.batch_size`) with the same type, default and help text, derived in `flat.py`, so that one flat
YAML file or command line can set everything. Settings of unlearning and of the baselines, which nothing but the trainer
reads, are fields of `LWFConfig` alone.

Imports `runtime` alone.
"""

from graceful_forgetting.config.baseline import BaselineName, BaselineSettings
from graceful_forgetting.config.confidence import ConfidenceConfig, ScoringWeights
from graceful_forgetting.config.elicitation import ElicitationConfig
from graceful_forgetting.config.lwf import ForgetAnswers, LWFConfig, Settings, changed
from graceful_forgetting.config.methods import DEFAULT_METHOD, METHODS, MethodName, as_arm, method_settings
from graceful_forgetting.config.posterior import Covered, FisherEstimator, ParameterSpace, PosteriorConfig
from graceful_forgetting.config.selection import SelectionConfig, SelectionStrategy
from graceful_forgetting.config.unlearning import UnlearningSettings, UnlearnSchedule

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "BaselineName",
    "BaselineSettings",
    "ConfidenceConfig",
    "Covered",
    "ElicitationConfig",
    "FisherEstimator",
    "ForgetAnswers",
    "LWFConfig",
    "MethodName",
    "ParameterSpace",
    "PosteriorConfig",
    "ScoringWeights",
    "SelectionConfig",
    "SelectionStrategy",
    "Settings",
    "UnlearnSchedule",
    "UnlearningSettings",
    "as_arm",
    "changed",
    "method_settings",
]
