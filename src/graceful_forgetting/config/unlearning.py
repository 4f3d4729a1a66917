"""Settings of the unlearning updates (stage 5 of the method); part of `LWFConfig`."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.fields import part_named, require, require_choice, setting

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
# Gradient norm that an unlearning update is clipped to.
UNLEARN_MAX_GRAD_NORM = 1.0


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
        0.1,
        "Factor on the unlearning gradient with unlearn_schedule 'joint'; the other schedules do not use it.",
    )
    unlearn_objective: UnlearnObjective | str = setting(
        "bounded_tokens",
        "What an unlearning update minimises. 'bounded_ascent' raises each sample's loss up to unlearn_loss_cap, "
        "'bounded_tokens' that of each token. 'gradient_ascent' raises it without bound, as published. 'npo' and "
        "'simnpo': negative preference optimization, with the base model as reference and without (β 0.1 and 2.5). "
        "'unlikelihood': −log(1 − p) of every token but the one that ends the answer. 'uniform': KL divergence from "
        "the uniform distribution at every token. 'gradient_difference': ascent together with descent on learning "
        "rows. An answer that was chosen among options counts as one token, whose p is its share of their probability "
        "(not with 'uniform'). An objective of one's own is named by its import path, 'package.module:Class'.",
    )
    unlearn_loss_cap: float = setting(
        4.0,
        "Unlearning leaves alone what has at least this loss: a sample, in nats per token, with 'bounded_ascent'; a "
        "single token, in nats, with 'bounded_tokens'. The larger the share that is left alone, the shorter the "
        "update.",
    )
    unlearn_learning_rate: float | None = setting(
        None,
        "Learning rate of the unlearning updates (AdamW). It decays in step with the learning rate; with schedule "
        "'early', which comes before any decay, it stays at this value. Unset: learning_rate. Not used by 'joint'.",
    )
    per_device_unlearn_batch_size: int | None = setting(
        None,
        "Samples that one device unlearns in a pass of an unlearning update. Unset: per_device_train_batch_size, or "
        "half of it with unlearn_retain_weight above 0, since as many are retained: a pass is as large as one of "
        "learning.",
    )
    unlearn_gradient_accumulation_steps: int | None = setting(
        None, "Passes that are summed to one unlearning update. Unset: gradient_accumulation_steps."
    )
    unlearn_retain_weight: float = setting(
        1.0,
        "How strongly an unlearning update also lowers the loss of what is not unlearned: the factor on the loss of as "
        "many retained samples, drawn from all self-knowledge that is left. 0: nothing is retained.",
    )
    guard_margin: float | None = setting(
        0.5,
        "Unlearning stops for good, and says why, when the smoothed learning loss or the held-out loss exceeds its "
        "lowest value so far by this many nats per token. null (or inf, on the command line): it never stops.",
    )
    guard_fallback: bool = setting(
        True,
        "After training, keep the weights of plain fine-tuning where they have the lower loss on eval_dataset. Without "
        "an eval_dataset nothing is compared. Where the reference run is not a whole one, this costs a run of plain "
        "fine-tuning, unless what is to be unlearned comes scored.",
    )

    def check_unlearning(self) -> None:
        """Raise `ValueError`, naming the field, its value and what is valid."""
        require_choice("unlearn_schedule", self.unlearn_schedule, get_args(UnlearnSchedule))
        self.unlearn_objective = part_named("unlearn_objective", self.unlearn_objective, get_args(UnlearnObjective))
        if self.guard_margin == math.inf:
            self.guard_margin = None
        for name in ("unlearn_loss_cap", "unlearn_weight", "unlearn_learning_rate", "guard_margin"):
            value = getattr(self, name)
            unset = value is None and name in ("unlearn_learning_rate", "guard_margin")
            require(unset or value > 0, name, value, "above 0")
        for name in ("unlearn_every", "unlearn_retain_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 (off) or more")
        for name in ("per_device_unlearn_batch_size", "unlearn_gradient_accumulation_steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
