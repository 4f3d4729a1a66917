"""Settings of scoring (stage 3 of the method)."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.fields import part_named, require, require_choice, setting
from graceful_forgetting.config.values import checked_when_made

ScorerName = Literal[
    "lwf",
    "linear",
    "overlap",
    "interference",
    "token_interference",
    "loss",
    "gradient_conflict",
    "gradient_cosine",
    "pairwise_conflict",
    "random",
]
OF_LOSSES: tuple[ScorerName, ...] = ("interference", "token_interference")
"""Scorers that hold the loss at the end of the reference run against that of the base model, in units that grow with
what learning has done."""
StepSizeRule = Literal["fixed", "crossover", "polyak", "line_search"]
ScoringWeights = Literal["float32", "bfloat16", "streamed"]


@checked_when_made
@dataclass
class ConfidenceConfig:
    """How the samples are scored (stage 3)."""

    scorer: ScorerName | str = setting(
        "interference",
        "What ranks the samples: 'lwf' (forgetting confidence), 'linear' or 'overlap' (its linear or quadratic term "
        "alone), 'interference' (what learning did to the loss), 'token_interference' (the same token by token, where "
        "the model was sure: for answers of a sentence), 'loss' (of the base model), "
        "'gradient_conflict' or 'gradient_cosine' (how much its gradient opposes that of the learning task, with or "
        "without its length; no reference run), 'pairwise_conflict' (how much its gradient opposes that of the single "
        "learning example that it opposes most; no reference run), or 'random'. A scorer of one's own is named by its "
        "import path, 'package.module:Class'.",
    )
    step_size: float = setting(
        1.0,
        "α of the formula: length of the one gradient step that stands for what a sample wants. It decides whether "
        "the linear or the quadratic term ranks the samples. A factor on the step that step_size_rule finds.",
    )
    step_size_rule: StepSizeRule = setting(
        "fixed",
        "'fixed': α is step_size for every sample; 'crossover': step_size times the median, over all samples, of the "
        "step at which linear and quadratic term are equally large: one α for all, from the same pass; 'polyak': "
        "step_size · L(x)/‖g‖², per sample and from the same pass; 'line_search': step_size times the step of largest "
        "decrease of L(x) on a geometric grid around Polyak's, one backward and 12 forward passes a sample.",
    )
    batch_size: int = setting(16, "Samples per forward and backward pass; does not change the result.")
    weights: ScoringWeights = setting(
        "float32",
        "How F and FΔ are kept while samples are scored. 'float32': beside the parameters, on their device; "
        "'bfloat16': the same in half the memory, at about 3 digits of precision; 'streamed': not held, but read from "
        "the posterior's memory-mapped file parameter by parameter, anew for each batch.",
    )
    seed: int = setting(42, "Seed of scorer 'random'; the others do not use it.")

    def __post_init__(self) -> None:
        self.scorer = part_named("scorer", self.scorer, get_args(ScorerName))
        require(math.isfinite(self.step_size) and self.step_size > 0, "step_size", self.step_size, "above 0")
        require_choice("step_size_rule", self.step_size_rule, get_args(StepSizeRule))
        if self.step_size_rule != "fixed" and self.scorer not in ("lwf", "linear", "overlap"):
            raise ValueError(
                f"step_size_rule={self.step_size_rule!r} with scorer={self.scorer!r}: that scorer takes no gradient "
                "step; leave step_size_rule at 'fixed', or use scorer 'lwf', 'linear' or 'overlap'"
            )
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require_choice("weights", self.weights, get_args(ScoringWeights))
