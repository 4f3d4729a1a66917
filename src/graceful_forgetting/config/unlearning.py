"""Settings of the unlearning updates (stage 5 of the method); part of `LWFConfig`."""

from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.fields import require, require_choice, setting

UnlearnObjective = Literal[
    "bounded_ascent",
    "bounded_tokens",
    "gradient_ascent",
    "npo",
    "simnpo",
    "unlikelihood",
    "uniform",
    "gradient_difference",
]
UnlearnSchedule = Literal["periodic", "early", "random", "joint"]
UnlearnScheduler = Literal["follow", "constant"]


@dataclass
class UnlearningSettings:
    """What an unlearning update is, when it happens, and what ends unlearning."""

    unlearn_every: int = setting(
        2, "N_u: learning updates from one unlearning update to the next; 0 turns unlearning off."
    )
    unlearn_schedule: UnlearnSchedule = setting(
        "periodic",
        "'periodic': one unlearning update after every unlearn_every learning updates; 'early': as many, all before "
        "the first learning update; 'random': before a learning update with probability 1/unlearn_every; 'joint': "
        "every learning update descends the sum of both gradients, that of unlearning times unlearn_weight.",
    )
    unlearn_weight: float = setting(
        0.1, "Factor on the unlearning gradient with unlearn_schedule 'joint'; the other schedules do not use it."
    )
    unlearn_objective: UnlearnObjective = setting(
        "bounded_tokens",
        "What an unlearning update minimises: 'bounded_ascent' raises each sample's loss up to unlearn_loss_cap, "
        "'bounded_tokens' that of each token; 'gradient_ascent' raises it without bound, as published; 'npo' and "
        "'simnpo': negative preference optimization, with the base model as reference and without; 'unlikelihood': "
        "−log(1 − p) of every token; 'uniform': KL divergence from the uniform distribution at every token; "
        "'gradient_difference': ascent together with descent on learning rows.",
    )
    unlearn_loss_cap: float = setting(
        4.0,
        "Loss from which on it is left alone: that of a sample, in nats per token, with 'bounded_ascent'; that of a "
        "token, in nats, with 'bounded_tokens'. An update is shorter by the share of what is left alone.",
    )
    unlearn_beta: float | None = setting(
        None, "β of 'npo' (unset: 0.1, on sequences) or 'simnpo' (unset: 2.5, on means over tokens)."
    )
    unlearn_learning_rate: float | None = setting(
        None, "Learning rate of the unlearning optimizer (AdamW); unset: learning_rate. Not used by 'joint'."
    )
    unlearn_lr_scheduler: UnlearnScheduler = setting(
        "follow",
        "'follow': decays in step with the learning rate of learning (with schedule 'early', which comes before any "
        "decay, at its peak); 'constant'.",
    )
    unlearn_max_grad_norm: float = setting(
        1.0, "Gradient norm that an unlearning update is clipped to; 0 = none. 'joint' clips the sum by max_grad_norm."
    )
    per_device_unlearn_batch_size: int = setting(8, "Samples per device and pass of an unlearning update.")
    unlearn_gradient_accumulation_steps: int = setting(1, "Passes that are summed to one unlearning update.")
    unlearn_retain_weight: float = setting(
        1.0,
        "w of a term + w · L in every unlearning update, on as many retained samples as are unlearned: the "
        "self-knowledge of lowest score, where any is left. 0 = none.",
    )
    unlearn_retain_fraction: float = setting(
        1.0,
        "Share of the self-knowledge, lowest scores first, that unlearn_retain_weight retains, in (0, 1]; what is "
        "unlearned is never retained.",
    )
    unlearn_rescore_every: int = setting(
        0,
        "Learning updates from one scoring and selection to the next, during training: same posterior, current "
        "weights in place of the base model's. 0 = once, before training.",
    )

    guard: bool = setting(
        True,
        "Stop unlearning for good, and say why, when the learning or held-out loss degrades past guard_margin.",
    )
    guard_margin: float = setting(
        0.5,
        "Nats per token by which the smoothed learning loss, or the held-out loss, may exceed its lowest value so far.",
    )

    guard_fallback: bool = setting(
        True,
        "After training, keep the weights of plain fine-tuning if they have the lower loss on eval_dataset; without "
        "one nothing is compared. Where no whole reference run is made, a run of plain fine-tuning is, unless what is "
        "to be unlearned comes scored.",
    )

    def check_unlearning(self) -> None:
        """Raise `ValueError`, naming the field, its value and what is valid."""
        require_choice("unlearn_schedule", self.unlearn_schedule, get_args(UnlearnSchedule))
        require_choice("unlearn_objective", self.unlearn_objective, get_args(UnlearnObjective))
        require_choice("unlearn_lr_scheduler", self.unlearn_lr_scheduler, get_args(UnlearnScheduler))
        for name in ("unlearn_loss_cap", "guard_margin", "unlearn_weight"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("unlearn_learning_rate", "unlearn_beta"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "above 0")
        for name in ("unlearn_every", "unlearn_rescore_every", "unlearn_max_grad_norm", "unlearn_retain_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 (off) or more")
        require(
            0 < self.unlearn_retain_fraction <= 1, "unlearn_retain_fraction", self.unlearn_retain_fraction, "in (0, 1]"
        )
        for name in ("per_device_unlearn_batch_size", "unlearn_gradient_accumulation_steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        if self.unlearn_beta is not None and self.unlearn_objective not in ("npo", "simnpo"):
            raise ValueError(
                f"unlearn_beta={self.unlearn_beta} with unlearn_objective={self.unlearn_objective!r}: only 'npo' and "
                "'simnpo' have a β; leave it unset"
            )
        if self.unlearn_schedule == "early" and self.unlearn_rescore_every:
            raise ValueError(
                f"unlearn_rescore_every={self.unlearn_rescore_every} with unlearn_schedule='early': all unlearning is "
                "over before anything could be scored again; leave it at 0"
            )
