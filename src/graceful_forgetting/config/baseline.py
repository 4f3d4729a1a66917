"""Settings of the baselines that graceful forgetting is compared with; part of `LWFConfig`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from graceful_forgetting.config.fields import mapping_of, require, require_choice, setting

BaselineName = Literal[
    "bss",
    "l2_sp",
    "ewc",
    "afec",
    "shrink_perturb",
    "weight_line_search",
    "f_learning",
    "token_forgetting",
    "selective_amnesia",
]

# Strength of each baseline where `baseline_weight` is unset; the file of each says where the number is from.
DEFAULT_WEIGHTS: dict[str, float] = {
    "bss": 1e-3,
    "l2_sp": 0.01,
    "ewc": 1000.0,
    "afec": 1.0,
    "f_learning": 0.3,
    "token_forgetting": 0.25,
    "selective_amnesia": 1000.0,
}


@dataclass(frozen=True)
class Option:
    """A number of one baseline alone: its default, and which values are valid."""

    default: float
    valid: Callable[[Any], bool]
    expected: str


def _count(default: int) -> Option:
    return Option(default, lambda value: isinstance(value, int) and value >= 1, "a whole number of at least 1")


# Baseline -> its own numbers; the file of each says what they mean.
OPTIONS: dict[str, dict[str, Option]] = {
    "bss": {"singular_values": _count(1)},
    "shrink_perturb": {
        "shrink": Option(0.4, lambda value: 0 <= value <= 1, "in [0, 1]"),
        "noise": Option(0.1, lambda value: value >= 0, "0 or more"),
    },
    "f_learning": {"steps": _count(20)},
    "token_forgetting": {"positive_share": Option(0.7, lambda value: 0 < value < 1, "in (0, 1)")},
}


@dataclass
class BaselineSettings:
    """Which baseline, and its few numbers. Works with unlearning and without."""

    baseline: BaselineName | None = setting(
        None,
        "A baseline on top of fine-tuning: 'bss' (batch spectral shrinkage), 'l2_sp', 'ewc' (both towards the base "
        "model), 'afec' (towards the plainly fine-tuned one), 'shrink_perturb', 'weight_line_search' (after training, "
        "the point on the line from the base model that has the lowest held-out loss; needs eval_dataset), "
        "'f_learning' (subtract what tuning on the selected self-knowledge adds), 'token_forgetting' (negative tokens "
        "in the learning set), 'selective_amnesia' (EWC, uniform target and replay); unset: none.",
    )
    baseline_weight: float | None = setting(
        None,
        "Strength of the baseline: η of 'bss', the factor of the penalty of 'l2_sp', 'ewc', 'afec' and "
        "'selective_amnesia', λ of 'f_learning', the final λ of 'token_forgetting'; unset: its own default.",
    )
    baseline_options: dict[str, float] | str | None = setting(
        None,
        "Further numbers of a baseline. 'bss': singular_values (how many of the smallest are shrunk, 1). "
        "'shrink_perturb': shrink (factor on the base weights, 0.4) and noise (share of a new model that is added, "
        "0.1). 'f_learning': steps (updates on self-knowledge whose effect is subtracted, 20). 'token_forgetting': "
        "positive_share (share of the tokens that is learned, 0.7). JSON on the command line.",
    )

    @property
    def baseline_strength(self) -> float:
        """`baseline_weight`, or the default of the baseline chosen."""
        assert self.baseline is not None
        return self.baseline_weight if self.baseline_weight is not None else DEFAULT_WEIGHTS[self.baseline]

    def baseline_option(self, name: str) -> Any:
        """A number of the baseline chosen: as given in `baseline_options`, or its default."""
        assert self.baseline is not None
        given = mapping_of("baseline_options", self.baseline_options)
        return given.get(name, OPTIONS[self.baseline][name].default)

    def check_baseline(self) -> None:
        """Raise `ValueError`, naming the field, its value and what is valid."""
        if self.baseline is not None:
            require_choice("baseline", self.baseline, get_args(BaselineName))
        weight = self.baseline_weight
        require(weight is None or weight > 0, "baseline_weight", weight, "above 0")
        if weight is not None and self.baseline not in DEFAULT_WEIGHTS:
            raise ValueError(
                f"baseline_weight={weight} with baseline={self.baseline!r}, which has no such number: leave it unset, "
                f"or choose one of {', '.join(DEFAULT_WEIGHTS)}"
            )
        known = OPTIONS.get(self.baseline or "", {})
        for name, value in mapping_of("baseline_options", self.baseline_options).items():
            if name not in known:
                raise ValueError(
                    f"baseline_options has {name!r}, which baseline={self.baseline!r} does not know: "
                    + (f"it knows {', '.join(known)}" if known else "leave baseline_options unset")
                )
            number = isinstance(value, int | float) and not isinstance(value, bool)
            require(number and known[name].valid(value), f"baseline_options: {name}", value, known[name].expected)
