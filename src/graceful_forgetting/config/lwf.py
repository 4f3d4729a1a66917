"""`LWFConfig`: the settings of every stage and of TRL's `SFTConfig` in one flat dataclass."""

from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig

from graceful_forgetting.config.baseline import BaselineSettings
from graceful_forgetting.config.confidence import (
    ConfidenceConfig,
    ScorerName,
    ScoringWeights,
    StepSizeRule,
)
from graceful_forgetting.config.elicitation import ElicitationConfig
from graceful_forgetting.config.fields import help_of, require, require_choice, setting, taken_from
from graceful_forgetting.config.methods import PUBLISHED
from graceful_forgetting.config.posterior import FisherAt, ParameterSpace, PosteriorConfig, PosteriorEstimator
from graceful_forgetting.config.selection import (
    DEFAULT_FORGET_FRACTION,
    DEFAULT_THRESHOLDS,
    WITHOUT_NUMBER,
    SelectionConfig,
    SelectionStrategy,
)
from graceful_forgetting.config.unlearning import UnlearningSettings
from graceful_forgetting.runtime.internals import set_both_names_of_checkpointing

ForgetAnswers = Literal["self_generated", "given"]

DEFAULT_REFERENCE_SHARE = 0.1


@dataclass
class LWFConfig(BaselineSettings, UnlearningSettings, SFTConfig):
    """Settings of `LWFTrainer`: those of TRL's `SFTConfig` and, by prefix, those of each stage of the method.

    - Elicitation: `elicitation_*`, see `ElicitationConfig`
    - Posterior: `posterior_*`, see `PosteriorConfig`
    - Confidence: `confidence_*`, see `ConfidenceConfig`
    - Selection: `forget_*`, see `SelectionConfig`
    - Unlearning: `unlearn_*`, `per_device_unlearn_batch_size`, `guard*`, see `UnlearningSettings`
    - Baselines: `baseline*`, see `BaselineSettings`

    Each field's meaning is its `help` metadata. Differences from `SFTConfig`: on a machine without a bf16-capable
    accelerator, an unset `bf16` becomes `False` where `SFTConfig` would refuse to start.

    Raises:
        ValueError: names the field, its value and what is valid.
    """

    elicitation_batch_size: int = taken_from(ElicitationConfig, "batch_size")
    elicitation_max_new_tokens: int = taken_from(ElicitationConfig, "max_new_tokens")
    elicitation_num_samples_per_prompt: int = taken_from(ElicitationConfig, "num_samples_per_prompt")
    elicitation_temperature: float = taken_from(ElicitationConfig, "temperature")
    elicitation_server_url: str | None = taken_from(ElicitationConfig, "server_url")
    elicitation_server_model: str | None = taken_from(ElicitationConfig, "server_model")
    elicitation_server_api_key_env: str | None = taken_from(ElicitationConfig, "server_api_key_env")

    reference_fraction: float | None = setting(
        None,
        "Share of the learning updates after which the reference run ends, in (0, 1]; its learning rate decays as for "
        "all of them. Early weights show what learning overwrites first, at a fraction of the cost. Unset: 0.1 with "
        "scorer 'interference' and no baseline, 1 otherwise, since formulas mean the end of learning.",
    )

    posterior_estimator: PosteriorEstimator = taken_from(PosteriorConfig, "estimator")
    posterior_fisher_at: FisherAt = taken_from(PosteriorConfig, "fisher_at")
    posterior_num_samples: int | None = taken_from(PosteriorConfig, "num_samples")
    posterior_batch_size: int = taken_from(PosteriorConfig, "batch_size")
    posterior_parameter_space: ParameterSpace = taken_from(PosteriorConfig, "parameter_space")
    posterior_parameter_pattern: str | None = taken_from(PosteriorConfig, "parameter_pattern")
    posterior_last_blocks: int | None = taken_from(PosteriorConfig, "last_blocks")

    confidence_scorer: ScorerName = taken_from(ConfidenceConfig, "scorer", default="interference")
    confidence_step_size: float = taken_from(ConfidenceConfig, "step_size")
    confidence_step_size_rule: StepSizeRule = taken_from(ConfidenceConfig, "step_size_rule")
    confidence_batch_size: int = taken_from(ConfidenceConfig, "batch_size")
    confidence_weights: ScoringWeights = taken_from(ConfidenceConfig, "weights")

    forget_answers: ForgetAnswers | None = setting(
        None,
        "Whose answers to the prompts of forget_dataset are unlearned: 'self_generated' (the model's own; completions "
        "that the data set carries are ignored) or 'given' (those that it carries); unset: given ones where it carries "
        "any, else the model's own.",
    )
    forget_strategy: SelectionStrategy | None = field(
        default=None,
        metadata={
            "help": help_of(SelectionConfig, "strategy") + " Unset: 'threshold' at 0.2 nats per token with scorer "
            "'interference' and at 0.1 with 'pairwise_conflict', where no other field says how many; 'highest' "
            "otherwise."
        },
    )
    forget_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share of the scored samples that is unlearned, in (0, 1]. Unset, where neither another field nor "
            "the strategy says how many: 0.25."
        },
    )
    forget_count: int | None = taken_from(SelectionConfig, "count")
    forget_threshold: float | None = taken_from(SelectionConfig, "threshold")
    forget_quotas: dict[str, float] | str | None = taken_from(SelectionConfig, "quotas")
    forget_min_fraction: float = taken_from(SelectionConfig, "min_fraction")
    forget_max_fraction: float = taken_from(SelectionConfig, "max_fraction")
    forget_trials: bool = setting(
        False,
        "Before training, try what unlearning does to the loss on held-out learning rows: a run that unlearns "
        "nothing, one that unlearns what forget_strategy selects, and one a forgetting task that unlearns all of it. "
        "What had the lowest loss is then unlearned. Needs eval_dataset.",
    )
    forget_trial_first: bool = setting(
        False,
        "Trial runs of forget_trials try everything a second time with all unlearning before learning, by a uniform "
        "target (unlearn_schedule 'early', unlearn_objective 'uniform'), which is how facts are best replaced; a rule "
        "that changes is better forgotten during learning. Twice as many runs; what is chosen sets both.",
    )
    forget_trial_fraction: float = setting(
        1.0,
        "Share of the learning updates that a trial run of forget_trials has, in (0, 1]; its rate decays within. Short "
        "trials are cheaper and judge worse.",
    )

    def __post_init__(self) -> None:
        set_both_names_of_checkpointing(self)
        unset = self.bf16 is None  # type: ignore[has-type]
        if unset and not self.fp16 and not self.use_cpu and not is_torch_bf16_gpu_available():
            self.bf16 = False
        super().__post_init__()
        self.check_unlearning()
        self.check_baseline()
        self._check_together()
        # Building them checks every stage's fields before any work starts.
        self.elicitation_config()
        self.posterior_config()
        self.confidence_config()
        self.selection_config()

    def _check_together(self) -> None:
        """What no group of fields can check on its own."""
        if self.forget_strategy is not None:
            require_choice("forget_strategy", self.forget_strategy, get_args(SelectionStrategy))
        if self.forget_answers is not None:
            require_choice("forget_answers", self.forget_answers, get_args(ForgetAnswers))
        for name, value in (
            ("reference_fraction", self.reference_share),
            ("forget_trial_fraction", self.forget_trial_fraction),
        ):
            require(0 < value <= 1, name, value, "in (0, 1]")
        if self.forget_trial_first and not self.forget_trials:
            raise ValueError(
                "forget_trial_first=True with forget_trials=False: there are no trial runs; set forget_trials=True"
            )
        if self.forget_trial_first and (self.unlearn_schedule, self.unlearn_objective) == ("early", "uniform"):
            raise ValueError(
                "forget_trial_first=True with unlearn_schedule='early' and unlearn_objective='uniform': every trial "
                "would be made twice; leave those two unset, or set forget_trial_first=False"
            )
        for name, unused in (("baseline", None), ("unlearn_rescore_every", 0)):
            if self.forget_trials and getattr(self, name) != unused:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} with forget_trials=True: trial runs choose once what is "
                    f"unlearned, by unlearning alone; set {name}={unused!r}, or forget_trials=False"
                )
        if self.unlearn_every > 0 and self.unlearn_lr_scheduler == "follow" and not self.learning_rate > 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} leaves unlearn_lr_scheduler='follow' nothing to follow: set it "
                "above 0, or use unlearn_lr_scheduler='constant' with an unlearn_learning_rate"
            )
        if self.unlearn_every > 0 and self.fp16:
            raise ValueError(
                "fp16=True is not supported together with unlearning: the loss scaler would be shared by two "
                "optimizers. Use bf16=True, or unlearn_every=0."
            )
        self._check_baseline_together()

    def _check_baseline_together(self) -> None:
        if self.baseline is not None and self.reference_share < 1:
            raise ValueError(
                f"reference_fraction={self.reference_fraction} with baseline={self.baseline!r}: baselines are "
                "defined by the weights of a whole reference run; leave it at 1"
            )
        if self.baseline is not None and self.label_smoothing_factor > 0:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor} with baseline={self.baseline!r}: TRL computes "
                "smoothed losses apart from the pass that a baseline reads; set it to 0"
            )
        if self.baseline == "token_forgetting":
            for name, value in (("packing", False), ("padding_free", False), ("loss_type", "nll")):
                if getattr(self, name) != value:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} cannot be used with baseline='token_forgetting', which weighs "
                        f"the tokens of single learning examples: set {name}={value!r}"
                    )
            if self.posterior_parameter_pattern is not None or self.posterior_last_blocks is not None:
                raise ValueError(
                    "baseline='token_forgetting' needs θ*_L whole: leave posterior_parameter_pattern and "
                    "posterior_last_blocks unset"
                )
        if self.baseline == "afec" and self.posterior_parameter_space != "trainable":
            raise ValueError(
                f"posterior_parameter_space={self.posterior_parameter_space!r} with baseline='afec': its penalty is on "
                "the parameters that are trained; use 'trainable'"
            )
        if self.baseline == "afec" and self.posterior_fisher_at != "reference":
            raise ValueError(
                f"posterior_fisher_at={self.posterior_fisher_at!r} with baseline='afec': its penalty is the posterior "
                "at its own optimum, θ*_L; use 'reference'"
            )
        if self.baseline == "selective_amnesia":
            wanted = {"unlearn_objective": "uniform", "unlearn_schedule": "joint"}
            odd = [f"{name}={value!r}" for name, value in wanted.items() if getattr(self, name) != value]
            odd += [] if self.unlearn_retain_weight > 0 else ["unlearn_retain_weight=1.0"]
            odd += [] if self.unlearn_every > 0 else ["unlearn_every=1"]
            if odd:
                raise ValueError(
                    "baseline='selective_amnesia' is EWC together with a uniform target on the forgetting set and "
                    f"replay of the rest: set {', '.join(odd)} as well"
                )

    @classmethod
    def published(cls, **settings: Any) -> Self:
        """The method as its paper has it (`config.methods.PUBLISHED`) where `settings` say nothing else."""
        return cls(**{**PUBLISHED, **settings})

    def elicitation_config(self) -> ElicitationConfig:
        return ElicitationConfig(
            batch_size=self.elicitation_batch_size,
            num_samples_per_prompt=self.elicitation_num_samples_per_prompt,
            max_new_tokens=self.elicitation_max_new_tokens,
            temperature=self.elicitation_temperature,
            seed=self.seed,
            server_url=self.elicitation_server_url,
            server_model=self.elicitation_server_model,
            server_api_key_env=self.elicitation_server_api_key_env,
        )

    def posterior_config(self) -> PosteriorConfig:
        return PosteriorConfig(
            estimator=self.posterior_estimator,
            fisher_at=self.posterior_fisher_at,
            num_samples=self.posterior_num_samples,
            batch_size=self.posterior_batch_size,
            parameter_space=self.posterior_parameter_space,
            parameter_pattern=self.posterior_parameter_pattern,
            last_blocks=self.posterior_last_blocks,
            seed=self.seed,
        )

    def confidence_config(self) -> ConfidenceConfig:
        return ConfidenceConfig(
            scorer=self.confidence_scorer,
            step_size=self.confidence_step_size,
            step_size_rule=self.confidence_step_size_rule,
            batch_size=self.confidence_batch_size,
            weights=self.confidence_weights,
            seed=self.seed,
        )

    @property
    def reference_share(self) -> float:
        """`reference_fraction`, or what it is where that is unset."""
        if self.reference_fraction is not None:
            return self.reference_fraction
        return DEFAULT_REFERENCE_SHARE if self.confidence_scorer == "interference" and self.baseline is None else 1.0

    def selection_config(self) -> SelectionConfig:
        strategy, fraction, threshold = self.forget_strategy, self.forget_fraction, self.forget_threshold
        how_many = (fraction, self.forget_count, threshold, self.forget_quotas)
        unsaid = how_many == (None, None, None, None)
        natural = DEFAULT_THRESHOLDS.get(self.confidence_scorer) if unsaid else None
        if strategy is None:
            strategy = "highest" if threshold is None and natural is None else "threshold"
        if strategy == "threshold":
            threshold = natural if threshold is None else threshold
        elif unsaid and strategy not in WITHOUT_NUMBER:
            fraction = DEFAULT_FORGET_FRACTION
        return SelectionConfig(
            strategy=strategy,
            fraction=fraction,
            count=self.forget_count,
            threshold=threshold,
            quotas=self.forget_quotas,
            min_fraction=self.forget_min_fraction,
            max_fraction=self.forget_max_fraction,
            seed=self.seed,
        )
