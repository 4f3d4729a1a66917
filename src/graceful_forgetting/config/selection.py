"""Settings of selection (stage 4 of the method)."""

import json
from dataclasses import dataclass
from typing import Literal, get_args

from graceful_forgetting.config.confidence import ScorerName
from graceful_forgetting.config.fields import require, require_choice, setting

SelectionStrategy = Literal["highest", "lowest", "random", "threshold", "gap", "weighted"]

DEFAULT_FORGET_FRACTION = 0.25
# Of scorers whose scores have a scale of their own: nats per token by which learning has raised the loss, and a cosine.
DEFAULT_THRESHOLDS: dict[ScorerName, float] = {"interference": 0.2, "pairwise_conflict": 0.1}
# Strategies that find out themselves how many samples are unlearned.
WITHOUT_NUMBER = ("gap", "weighted")


@dataclass
class SelectionConfig:
    """Which scored samples are unlearned (stage 4).

    Exactly one of `fraction`, `count`, `threshold` and `quotas` says how many; strategies 'gap' and 'weighted' need and
    take none of them.
    """

    strategy: SelectionStrategy = setting(
        "highest",
        "'highest' or 'lowest' confidence; 'random'; 'threshold' (every score of at least forget_threshold); 'gap' "
        "(the highest, down to the largest gap between scores, within forget_min_fraction and forget_max_fraction); "
        "'weighted' (all, each with a weight proportional to the rank of its score).",
    )
    fraction: float | None = setting(None, "Share of the scored samples that is unlearned, in (0, 1].")
    count: int | None = setting(None, "Number of scored samples that is unlearned.")
    threshold: float | None = setting(None, "Lowest score that is unlearned; only with strategy 'threshold'.")
    quotas: dict[str, float] | str | None = setting(
        None,
        "Per forgetting task: a share in (0, 1] or a whole number of samples, in place of one for all. "
        "JSON on the command line.",
    )
    min_fraction: float = setting(0.05, "Smallest share that strategy 'gap' may choose, in (0, 1].")
    max_fraction: float = setting(0.5, "Largest share that strategy 'gap' may choose, in (0, 1].")
    seed: int = setting(42, "Seed of strategy 'random'.")

    def __post_init__(self) -> None:
        require_choice("strategy", self.strategy, get_args(SelectionStrategy))
        if isinstance(self.quotas, str):
            try:
                self.quotas = json.loads(self.quotas)
            except json.JSONDecodeError as error:
                raise ValueError(f"quotas={self.quotas!r} is not valid JSON: {error}") from error
        given = [name for name in ("fraction", "count", "threshold", "quotas") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{', '.join(given)} are set together, and each decides how many samples: keep one")
        if (self.strategy == "threshold") != (self.threshold is not None):
            raise ValueError(
                f"strategy={self.strategy!r} with threshold={self.threshold!r}: strategy 'threshold' needs a "
                "threshold, and no other strategy takes one"
            )
        if given and self.strategy in WITHOUT_NUMBER:
            raise ValueError(
                f"{given[0]}={getattr(self, given[0])!r} with strategy={self.strategy!r}, which finds out itself how "
                "many samples: leave it unset"
            )
        if not given and self.strategy not in WITHOUT_NUMBER:
            raise ValueError("set one of fraction, count, quotas or threshold: how many samples to unlearn")
        require(
            self.fraction is None or 0 < self.fraction <= 1,
            "fraction",
            self.fraction,
            "in (0, 1]: the share of samples",
        )
        require(self.count is None or self.count >= 1, "count", self.count, "at least 1")
        for name in ("min_fraction", "max_fraction"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "in (0, 1]")
        require(
            self.min_fraction <= self.max_fraction,
            "min_fraction",
            self.min_fraction,
            f"at most max_fraction={self.max_fraction}",
        )
