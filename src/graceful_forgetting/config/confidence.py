"""Settings of scoring (stage 3 of the method)."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.fields import require, require_choice, setting

ConfidenceEngine = Literal["batched", "oracle"]
ScorerName = Literal[
    "lwf",
    "linear",
    "overlap",
    "interference",
    "loss",
    "gradient_conflict",
    "gradient_cosine",
    "pairwise_conflict",
    "random",
]
StepSizeRule = Literal["fixed", "crossover", "polyak", "line_search"]
WeightsPlacement = Literal["resident", "streamed"]
WeightsDtype = Literal["float32", "bfloat16"]


@dataclass
class ConfidenceConfig:
    """How the samples are scored (stage 3)."""

    scorer: ScorerName = setting(
        "interference",
        "What ranks the samples: 'lwf' (forgetting confidence), 'linear' or 'overlap' (its linear or quadratic term "
        "alone), 'interference' (what learning did to the loss), 'loss' (of the base model), "
        "'gradient_conflict' or 'gradient_cosine' (how much its gradient opposes that of the learning task, with or "
        "without its length; no reference run), 'pairwise_conflict' (how much its gradient opposes that of the single "
        "learning example that it opposes most; no reference run), or 'random'.",
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
    engine: ConfidenceEngine = setting(
        "batched",
        "'batched': one backward pass a batch; 'oracle': one backward pass a sample (slow, for checks).",
    )
    strict: bool = setting(
        False,
        "Refuse a model with modules that have no batched rule, instead of using the slow exact path for them.",
    )
    weights_placement: WeightsPlacement = setting(
        "resident",
        "Where F and FΔ are while samples are scored: 'resident': beside the parameters, on their device; "
        "'streamed': read from the posterior's memory-mapped file parameter by parameter, anew for each batch.",
    )
    weights_dtype: WeightsDtype = setting(
        "float32", "Type that F and FΔ are held in; 'bfloat16' halves their memory at about 3 digits of precision."
    )
    shard_size: int = setting(1024, "Samples between two saves of a resumable scoring run.")
    seed: int = setting(42, "Seed of scorer 'random'; the others do not use it.")

    def __post_init__(self) -> None:
        require_choice("scorer", self.scorer, get_args(ScorerName))
        require(math.isfinite(self.step_size) and self.step_size > 0, "step_size", self.step_size, "above 0")
        require_choice("step_size_rule", self.step_size_rule, get_args(StepSizeRule))
        if self.step_size_rule != "fixed" and self.scorer not in ("lwf", "linear", "overlap"):
            raise ValueError(
                f"step_size_rule={self.step_size_rule!r} with scorer={self.scorer!r}: that scorer takes no gradient "
                "step; leave step_size_rule at 'fixed', or use scorer 'lwf', 'linear' or 'overlap'"
            )
        if self.step_size_rule == "line_search" and self.strict:
            raise ValueError(
                "strict=True with step_size_rule='line_search': a line search takes one backward pass a sample, "
                "which is what strict refuses; set one of them back to its default"
            )
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require_choice("engine", self.engine, get_args(ConfidenceEngine))
        require_choice("weights_placement", self.weights_placement, get_args(WeightsPlacement))
        require_choice("weights_dtype", self.weights_dtype, get_args(WeightsDtype))
        require(self.shard_size >= 1, "shard_size", self.shard_size, "at least 1")
