"""`LWFConfig`: the settings of every stage and of TRL's `SFTConfig` in one flat dataclass."""

import copy
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

from transformers.utils import is_torch_bf16_gpu_available, is_torch_xla_available
from trl import SFTConfig

from graceful_forgetting.config.baseline import BaselineSettings
from graceful_forgetting.config.confidence import OF_LOSSES, ConfidenceConfig
from graceful_forgetting.config.elicitation import ElicitationConfig
from graceful_forgetting.config.fields import require, require_choice, setting
from graceful_forgetting.config.flat import documented, flat_settings, stage_config, starting_from
from graceful_forgetting.config.methods import MethodName, method_settings
from graceful_forgetting.config.posterior import PosteriorConfig
from graceful_forgetting.config.selection import BY_THRESHOLD, DEFAULT_THRESHOLDS, SelectionConfig
from graceful_forgetting.config.unlearning import UnlearningSettings
from graceful_forgetting.config.values import check_typed, checked_when_made
from graceful_forgetting.runtime.internals import set_both_names_of_checkpointing
from graceful_forgetting.runtime.secrets import public_settings, without_secret_values

ForgetAnswers = Literal["self_generated", "given"]
ForgetTrials = Literal["none", "during", "both"]

DEFAULT_REFERENCE_SHARE = 0.1
# Prefix of a stage's fields in `LWFConfig` -> its class, where each of them is written.
STAGES: dict[str, type] = {
    "elicitation_": ElicitationConfig,
    "posterior_": PosteriorConfig,
    "confidence_": ConfidenceConfig,
    "forget_": SelectionConfig,
}

if TYPE_CHECKING:

    class StageSettings:
        """What `flat_settings` makes, which no type checker can see."""

        def __getattr__(self, name: str) -> Any: ...

else:
    StageSettings = flat_settings(STAGES)


@documented(SFTConfig)
@checked_when_made
@starting_from(method_settings)
@dataclass
class LWFConfig(BaselineSettings, UnlearningSettings, StageSettings, SFTConfig):
    """Settings of `LWFTrainer`: those of TRL's `SFTConfig` and, by prefix, those of each stage of the method.

    - Elicitation: `elicitation_*`, see `ElicitationConfig`
    - Posterior: `reference_fraction` and `posterior_*`, see `PosteriorConfig`
    - Confidence: `confidence_*`, see `ConfidenceConfig`
    - Selection: `forget_*`, see `SelectionConfig`
    - Unlearning: `unlearn_*`, `per_device_unlearn_batch_size`, `guard_*`, see `UnlearningSettings`
    - Baselines: `baseline*`, see `BaselineSettings`

    Difference from `SFTConfig`: on a machine without a bf16-capable accelerator, an unset `bf16` becomes `False` where
    `SFTConfig` would refuse to start.

    Raises:
        TypeError: a setting that there is not; names the nearest.
        ValueError: names the field, its value and what is valid.
    """

    method: MethodName | None = setting(
        None,
        "A named method, whose settings take the place of the defaults; every setting that is given beats them. "
        "'lwf' is Learning With Forgetting, with what its paper leaves open chosen by measurement; 'published' is the "
        "same as its paper has it; 'interference' unlearns what learning raises the loss of. Unset: the defaults.",
    )
    reference_fraction: float | None = setting(
        None,
        "Share of the learning updates after which the reference run ends, in (0, 1]; its learning rate decays as for "
        "all of them. Early weights show what learning overwrites first, at a fraction of the cost. Unset: 0.1 with "
        "scorer 'interference' and no baseline; otherwise 1, since formulas mean the end of learning.",
    )
    forget_answers: ForgetAnswers | None = setting(
        None,
        "Whose answers to the prompts of forget_dataset are unlearned: 'self_generated' (the model's own; completions "
        "that the data set carries are ignored) or 'given' (those that it carries). Unset: given ones where it carries "
        "any, else the model's own.",
    )
    forget_trials: ForgetTrials = setting(
        "none",
        "Try before training what unlearning does to the loss on held-out learning rows, and unlearn what had the "
        "lowest loss. 'during': one trial run that unlearns nothing, one that unlearns what forget_strategy selects, "
        "and one for each forgetting task as a whole. 'both': each of them a second time with all unlearning before "
        "learning, by a uniform target, which is how facts are best replaced; the winner sets unlearn_schedule and "
        "unlearn_objective too. Each trial costs a training run. Needs eval_dataset.",
    )

    def __post_init__(self) -> None:
        set_both_names_of_checkpointing(self)
        given = self.bf16  # type: ignore[has-type]
        lacking = not self.use_cpu and not is_torch_bf16_gpu_available()
        if given is None and not self.fp16 and lacking:
            self.bf16 = False
        for name in ("bf16", "bf16_full_eval"):
            if getattr(self, name) and lacking and not is_torch_xla_available():
                raise ValueError(
                    f"{name}=True needs an accelerator that computes in bfloat16, and this machine has none: leave "
                    f"{name} out for float32, or set use_cpu=True to compute in bfloat16 on the processor"
                )
        if self.ddp_backend is not None and "WORLD_SIZE" not in os.environ:
            raise ValueError(
                f"ddp_backend={self.ddp_backend!r} is for several processes, and this is one: start them with "
                "accelerate launch, or leave it out"
            )
        super().__post_init__()
        self.check()

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle of the settings holds: no credentials. The Trainer writes one, `training_args.bin`, into every
        checkpoint and into the folder that one publishes."""
        return without_secret_values(self.__dict__)

    def __copy__(self) -> "LWFConfig":
        # Of a copy in memory, `__getstate__` does not decide.
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> "LWFConfig":
        copied = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def to_dict(self) -> dict[str, Any]:
        """As `SFTConfig.to_dict`, which loggers such as wandb store; credentials hidden at any depth."""
        return public_settings(super().to_dict())

    def check(self) -> None:
        """Raise `ValueError` where a setting of ours is not valid, on its own or together with others."""
        if self.output_dir == "":
            raise ValueError("output_dir='' names no folder: give one, or '.' for the current folder")
        self.check_unlearning()
        self.check_baseline()
        self._check_together()
        # Building them checks every stage's fields before any work starts.
        self.elicitation_config()
        self.posterior_config()
        # A class of one's own goes by its import path, so that the settings stay JSON.
        self.confidence_scorer = self.confidence_config().scorer
        self.selection_config()

    def _check_together(self) -> None:
        """What no group of fields can check on its own."""
        if self.method is not None:
            require_choice("method", self.method, get_args(MethodName))
        if self.forget_answers is not None:
            require_choice("forget_answers", self.forget_answers, get_args(ForgetAnswers))
        require(0 < self.reference_share <= 1, "reference_fraction", self.reference_share, "in (0, 1]")
        self._check_trials()
        if self.forget_strategy == "relative" and self.confidence_scorer not in OF_LOSSES:
            raise ValueError(
                f"forget_strategy='relative' with confidence_scorer={self.confidence_scorer!r}: it holds a score "
                "against the learning task's own fall in loss, so that the score must grow with it; use "
                f"confidence_scorer={' or '.join(map(repr, OF_LOSSES))}, or forget_strategy='threshold'"
            )
        if self.unlearn_every > 0 and not self.learning_rate > 0:
            raise ValueError(
                f"learning_rate={self.learning_rate} leaves the rate of unlearning, which decays in step with it, "
                "nothing to follow: set it above 0, or unlearn_every=0"
            )
        if self.unlearn_every > 0 and self.fp16:
            raise ValueError(
                "fp16=True is not supported together with unlearning: the loss scaler would be shared by two "
                "optimizers. Use bf16=True, or unlearn_every=0."
            )
        # accelerate takes any value here, and any text for true.
        for name in ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "non_blocking"):
            value = getattr(self.accelerator_config, name)
            if value is not None and not isinstance(value, bool):
                raise ValueError(f"accelerator_config: {name}={value!r} is not valid: it must be true or false")
        self._check_baseline_together()

    def _check_trials(self) -> None:
        require_choice("forget_trials", self.forget_trials, get_args(ForgetTrials))
        if self.forget_trials == "both" and (self.unlearn_schedule, self.unlearn_objective) == ("early", "uniform"):
            raise ValueError(
                "forget_trials='both' with unlearn_schedule='early' and unlearn_objective='uniform': every trial "
                "would be made twice; leave those two unset, or set forget_trials='during'"
            )
        if self.forget_trials != "none" and self.baseline is not None:
            raise ValueError(
                f"baseline={self.baseline!r} with forget_trials={self.forget_trials!r}: trial runs choose what is "
                "unlearned, by unlearning alone; leave baseline unset, or set forget_trials='none'"
            )

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
            if self.posterior_parameters not in ("trainable", "merged"):
                raise ValueError(
                    f"posterior_parameters={self.posterior_parameters!r} with baseline='token_forgetting', which needs "
                    "θ*_L whole: use 'trainable'"
                )
        if self.baseline == "afec" and self.posterior_parameters == "merged":
            raise ValueError(
                f"posterior_parameters={self.posterior_parameters!r} with baseline='afec': its penalty is on the "
                "parameters that are trained; use 'trainable'"
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

    def elicitation_config(self) -> ElicitationConfig:
        """The settings of stage 1."""
        return stage_config(self, ElicitationConfig, "elicitation_")

    def posterior_config(self) -> PosteriorConfig:
        """The settings of stage 2."""
        return stage_config(self, PosteriorConfig, "posterior_")

    def confidence_config(self) -> ConfidenceConfig:
        """The settings of stage 3."""
        return stage_config(self, ConfidenceConfig, "confidence_")

    def selection_config(self) -> SelectionConfig:
        """The settings of stage 4; where they do not say how many, the threshold that the score has by its nature."""
        how_many = (self.forget_fraction, self.forget_count, self.forget_threshold, self.forget_quotas)
        strategy, threshold = self.forget_strategy, self.forget_threshold
        if how_many == (None, None, None, None) and strategy in (None, *BY_THRESHOLD):
            usual = DEFAULT_THRESHOLDS.get(self.confidence_scorer, {})
            strategy = strategy or next(iter(usual), None)
            threshold = None if strategy is None else usual.get(strategy)
        return stage_config(self, SelectionConfig, "forget_", strategy=strategy, threshold=threshold)

    @property
    def reference_share(self) -> float:
        """`reference_fraction`, or what it is where that is unset."""
        if self.reference_fraction is not None:
            return self.reference_fraction
        early = self.confidence_scorer in OF_LOSSES and self.baseline is None
        return DEFAULT_REFERENCE_SHARE if early else 1.0

    @property
    def unlearn_batch_size(self) -> int:
        """`per_device_unlearn_batch_size`, or what it is where that is unset."""
        if self.per_device_unlearn_batch_size is not None:
            return self.per_device_unlearn_batch_size
        learned = self.per_device_train_batch_size
        return max(1, learned // 2) if self.unlearn_retain_weight > 0 else learned

    @property
    def unlearn_passes(self) -> int:
        """`unlearn_gradient_accumulation_steps`, or what it is where that is unset."""
        return self.unlearn_gradient_accumulation_steps or self.gradient_accumulation_steps


Settings = TypeVar("Settings", bound=SFTConfig)


def changed(settings: Settings, **values: Any) -> Settings:
    """A copy of the settings with other values. Those of an `LWFConfig` are checked as on construction.

    What `TrainingArguments` sets up when it is made (devices, the state of accelerate) is not set up a second time:
    the copy keeps it, so that the checks of transformers and TRL do not see the new values.

    Raises:
        AttributeError: a name that the settings do not have.
        ValueError: names the setting, its value and what is valid.
    """
    types = get_type_hints(type(settings))
    known = {f.name for f in fields(settings)}
    copied = copy.copy(settings)
    for name, value in values.items():
        if name not in known:
            raise AttributeError(f"{type(settings).__name__} has no setting {name!r}")
        check_typed(name, value, types[name])
        setattr(copied, name, value)
    if isinstance(copied, LWFConfig):
        copied.check()
    return copied
