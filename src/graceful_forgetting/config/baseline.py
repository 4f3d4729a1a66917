"""Settings of the baselines that graceful forgetting is compared with; part of `LWFConfig`."""

from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.fields import require, require_choice, setting

BaselineName = Literal[
    "bss",
    "l2_sp",
    "ewc",
    "afec",
    "shrink_perturb",
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


@dataclass
class BaselineSettings:
    """Which baseline, and its few numbers. Works with unlearning and without."""

    baseline: BaselineName | None = setting(
        None,
        "A baseline on top of fine-tuning: 'bss' (batch spectral shrinkage), 'l2_sp', 'ewc' (both towards the base "
        "model), 'afec' (towards the plainly fine-tuned one), 'shrink_perturb', 'f_learning' (subtract what tuning on "
        "the selected self-knowledge adds), 'token_forgetting' (negative tokens in the learning set), "
        "'selective_amnesia' (EWC, uniform target and replay); unset: none.",
    )
    baseline_weight: float | None = setting(
        None,
        "Strength of the baseline: η of 'bss', the factor of the penalty of 'l2_sp', 'ewc', 'afec' and "
        "'selective_amnesia', λ of 'f_learning', the final λ of 'token_forgetting'; unset: its own default.",
    )
    baseline_singular_values: int = setting(1, "k of 'bss': how many of the smallest singular values are shrunk.")
    baseline_shrink: float = setting(0.4, "λ of 'shrink_perturb': what the base weights are multiplied by, in [0, 1].")
    baseline_noise: float = setting(
        0.1, "Share of a freshly initialised model that 'shrink_perturb' adds to the shrunk weights, 0 or more."
    )
    baseline_steps: int = setting(20, "Updates of the tuning on self-knowledge that 'f_learning' subtracts.")
    baseline_positive_share: float = setting(
        0.7, "ρ of 'token_forgetting': share of the learning set's tokens that are learned, in (0, 1)."
    )

    @property
    def baseline_strength(self) -> float:
        """`baseline_weight`, or the default of the baseline chosen."""
        assert self.baseline is not None
        return self.baseline_weight if self.baseline_weight is not None else DEFAULT_WEIGHTS[self.baseline]

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
        for name in ("baseline_singular_values", "baseline_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(0 <= self.baseline_shrink <= 1, "baseline_shrink", self.baseline_shrink, "in [0, 1]")
        require(self.baseline_noise >= 0, "baseline_noise", self.baseline_noise, "0 or more")
        require(
            0 < self.baseline_positive_share < 1, "baseline_positive_share", self.baseline_positive_share, "in (0, 1)"
        )
