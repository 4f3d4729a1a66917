"""Settings of the learning task's posterior (stage 2 of the method)."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.fields import require, require_choice, setting
from graceful_forgetting.config.values import checked_when_made

FisherEstimator = Literal["sampled", "empirical"]
# `exact` is an estimator of the posterior only: the oracle differentiates one label at a position.
PosteriorEstimator = Literal["sampled", "empirical", "exact"]
ParameterSpace = Literal["trainable", "merged"]
FisherAt = Literal["reference", "base"]


@dataclass(frozen=True)
class Covered:
    """Which parameters a posterior covers: a space, narrowed to a pattern or to the last blocks; none = all of it."""

    space: ParameterSpace = "trainable"
    pattern: str | None = None
    last_blocks: int | None = None


@checked_when_made
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
    parameters: str = setting(
        "trainable",
        "Which parameters are covered. 'trainable': those that are trained (of a LoRA model its factors). 'merged': "
        "for a LoRA model the dense weights of its target modules, with the adapter merged in. 'last_blocks:N': the "
        "trainable ones of the last N transformer blocks. 'pattern:REGEX': the trainable ones whose name the regular "
        "expression is found in. The last two approximate the full score.",
    )
    seed: int = setting(42, "Seed of the drawn examples and labels.")

    def __post_init__(self) -> None:
        require_choice("estimator", self.estimator, get_args(PosteriorEstimator))
        require_choice("fisher_at", self.fisher_at, get_args(FisherAt))
        require(self.num_samples is None or self.num_samples >= 1, "num_samples", self.num_samples, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _ = self.covered

    @property
    def covered(self) -> Covered:
        """What `parameters` names. Raises `ValueError` where it is not valid."""
        kind, _, value = self.parameters.partition(":")
        if self.parameters in get_args(ParameterSpace):
            return Covered(space=self.parameters)  # type: ignore[arg-type]
        if kind == "last_blocks" and value.isdecimal() and int(value) >= 1:
            return Covered(last_blocks=int(value))
        if kind == "pattern" and value:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(
                    f"parameters={self.parameters!r} is not valid: {value!r} must be a regular expression ({error})"
                ) from error
            return Covered(pattern=value)
        raise ValueError(
            f"parameters={self.parameters!r} is not valid: it must be trainable, merged, last_blocks:N (N at least 1) "
            "or pattern:REGEX"
        )
