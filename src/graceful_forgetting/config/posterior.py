"""Settings of the learning task's posterior (stage 2 of the method)."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.fields import require, require_choice, setting

FisherEstimator = Literal["sampled", "empirical"]
# `exact` is an estimator of the posterior only: the oracle differentiates one label at a position.
PosteriorEstimator = Literal["sampled", "empirical", "exact"]
ParameterSpace = Literal["trainable", "merged"]
FisherAt = Literal["reference", "base"]


@dataclass
class PosteriorConfig:
    """How the diagonal Fisher information of the learning task is estimated, and of which parameters (stage 2)."""

    estimator: PosteriorEstimator = setting(
        "sampled",
        "'sampled': labels drawn from the model itself (the Fisher information); 'empirical': the labels of the "
        "data, which shrinks towards 0 where the data are fitted; 'exact': expectation over the vocabulary at every "
        "position, one gradient for each (small models only).",
    )
    fisher_at: FisherAt = setting(
        "reference",
        "Weights at which the Fisher information is estimated: 'reference': at θ*_L, the formula's; 'base': at θ_base, "
        "where the labels of the data are not fitted yet. The posterior's mean is θ*_L either way.",
    )
    num_samples: int | None = setting(None, "Learning examples used, drawn without replacement; none = all.")
    batch_size: int = setting(16, "Gradients per forward and backward pass; does not change the result.")
    parameter_space: ParameterSpace = setting(
        "trainable",
        "'trainable': the parameters that are trained (of a LoRA model its factors); 'merged': for a LoRA model the "
        "dense weights of its target modules, with the adapter merged into them.",
    )
    parameter_pattern: str | None = setting(
        None,
        "Regular expression, searched in parameter names: only matching parameters are covered. An approximation of "
        "the full score; none = all.",
    )
    last_blocks: int | None = setting(
        None, "Only the parameters of the last n transformer blocks. An approximation of the full score; none = all."
    )
    seed: int = setting(42, "Seed of the drawn examples and labels.")

    def __post_init__(self) -> None:
        require_choice("estimator", self.estimator, get_args(PosteriorEstimator))
        require_choice("fisher_at", self.fisher_at, get_args(FisherAt))
        require(self.num_samples is None or self.num_samples >= 1, "num_samples", self.num_samples, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require_choice("parameter_space", self.parameter_space, get_args(ParameterSpace))
        if self.parameter_pattern is not None:
            try:
                re.compile(self.parameter_pattern)
            except re.error as error:
                raise ValueError(
                    f"parameter_pattern={self.parameter_pattern!r} is not valid: it must be a regular expression "
                    f"({error})"
                ) from error
        require(self.last_blocks is None or self.last_blocks >= 1, "last_blocks", self.last_blocks, "at least 1")
