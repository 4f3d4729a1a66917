"""Settings of selection (stage 4 of the method)."""

from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.confidence import ScorerName
from graceful_forgetting.config.fields import mapping_of, require, require_choice, setting
from graceful_forgetting.config.values import check_share_or_count

SelectionStrategy = Literal["highest", "lowest", "random", "threshold", "relative", "gap", "weighted"]

DEFAULT_FORGET_FRACTION = 0.25
# Threshold by strategy, the usual strategy first, of scorers whose scores have a scale: a cosine has one of its own,
# and what learning does to a sample, in nats per token or as a distance, has one beside what it does to its own task.
DEFAULT_THRESHOLDS: dict[ScorerName | str, dict[SelectionStrategy, float]] = {
    "interference": {"relative": 0.3, "threshold": 0.2},
    "token_interference": {"relative": 0.25, "threshold": 0.13},
    "pairwise_conflict": {"threshold": 0.1},
}
# Strategies that take a threshold.
BY_THRESHOLD = ("threshold", "relative")
# Strategies that find out themselves how many samples are unlearned.
WITHOUT_NUMBER = ("gap", "weighted")
# Smallest and largest share of the samples that strategy 'gap' may choose.
GAP_BOUNDS = (0.05, 0.5)


@dataclass
class SelectionConfig:
    """Which scored samples are unlearned (stage 4).

    At most one of `fraction`, `count`, `threshold` and `quotas` says how many; strategies 'gap' and 'weighted' take
    none of them. On construction an unset strategy or number becomes what it stands for.
    """

    strategy: SelectionStrategy | None = setting(
        None,
        "Which samples are unlearned: those of 'highest' or 'lowest' score; 'random' ones; with 'threshold' every "
        "score of at least forget_threshold; with 'relative' every score of at least forget_threshold times the share "
        "of the learning task's loss that the reference run has removed, so that a low learning rate and a short "
        "reference run choose the same samples as a high and a long one; with 'gap' the highest, down to the largest "
        "gap between scores (5 % to 50 % of the samples); with 'weighted' all, each with a weight by the rank of its "
        "score. Unset: 'highest', or 'threshold' where a threshold is given. A run that says nothing of strategy and "
        "number uses 'relative' and 0.3 nats per token with scorer 'interference', 'relative' and 0.25 with scorer "
        "'token_interference', and a threshold of 0.1 with scorer 'pairwise_conflict'.",
    )
    fraction: float | None = setting(
        None,
        "Share of the scored samples that is unlearned, in (0, 1]. Unset: 0.25, where neither another field nor the "
        "strategy says how many.",
    )
    count: int | None = setting(None, "Number of scored samples that is unlearned.")
    threshold: float | None = setting(
        None,
        "Lowest score that is unlearned; with strategy 'relative', where the reference run has removed all of the "
        "learning task's loss. With these two strategies only.",
    )
    quotas: dict[str, float] | str | None = setting(
        None,
        "How much is unlearned of each forgetting task, in place of one number for all: a share in (0, 1] or a whole "
        "number of samples. Tasks that are not named keep everything. JSON on the command line.",
    )
    seed: int = setting(42, "Seed of strategy 'random'.")

    def __post_init__(self) -> None:
        if self.quotas is not None:
            self.quotas = mapping_of("quotas", self.quotas)
            for task, amount in self.quotas.items():
                check_share_or_count(f"quotas[{task!r}]", amount)
        numbers = {"fraction": self.fraction, "count": self.count, "threshold": self.threshold, "quotas": self.quotas}
        given = [f"{name}={value!r}" for name, value in numbers.items() if value is not None]
        if self.strategy is None:
            self.strategy = "highest" if self.threshold is None else "threshold"
        require_choice("strategy", self.strategy, get_args(SelectionStrategy))
        if len(given) > 1:
            raise ValueError(f"{', '.join(given)} are set together, and each decides how many samples: keep one")
        if (self.strategy in BY_THRESHOLD) != (self.threshold is not None):
            raise ValueError(
                f"strategy={self.strategy!r} with threshold={self.threshold!r}: strategy 'threshold' or 'relative' "
                "needs a threshold, and no other strategy takes one"
            )
        if given and self.strategy in WITHOUT_NUMBER:
            raise ValueError(
                f"{given[0]} with strategy={self.strategy!r}, which finds out itself how many samples: leave it unset"
            )
        if not given and self.strategy not in WITHOUT_NUMBER:
            self.fraction = DEFAULT_FORGET_FRACTION
        require(
            self.fraction is None or 0 < self.fraction <= 1,
            "fraction",
            self.fraction,
            "in (0, 1]: the share of samples",
        )
        require(self.count is None or self.count >= 1, "count", self.count, "at least 1")
