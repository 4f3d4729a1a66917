"""How hard a world is: what can be changed of it without it becoming another world."""

from dataclasses import dataclass

from graceful_forgetting.worlds.split import MAX_TRAIN_SHARE


@dataclass(frozen=True)
class Difficulty:
    """Settings of a world; None stands for the world's own value.

    Attributes:
        train_share: share of the entities that the learning task shows, above 0 and at most 0.3; more makes the old
            knowledge easier to overwrite.
        pretraining_steps: optimizer updates of the pre-training; more makes knowledge stronger.
        label_noise: share of the answers that are mislabelled in pre-training, from 0 to below 1; less makes the
            models more certain of what they know.
        harmful_share: share of the rows of all forgetting tasks together that conflict with the learning task, from
            0.1 to 1. As few rows as possible are left out to reach it. None keeps every row.

    Raises `ValueError` naming the field that is out of range.
    """

    train_share: float | None = None
    pretraining_steps: int | None = None
    label_noise: float | None = None
    harmful_share: float | None = None

    def __post_init__(self) -> None:
        _require(
            self.train_share is None or 0 < self.train_share <= MAX_TRAIN_SHARE,
            "train_share",
            self.train_share,
            f"above 0 and at most {MAX_TRAIN_SHARE} (the other entities are kept for validation and test)",
        )
        _require(
            self.pretraining_steps is None or self.pretraining_steps >= 1,
            "pretraining_steps",
            self.pretraining_steps,
            "at least 1",
        )
        _require(self.label_noise is None or 0 <= self.label_noise < 1, "label_noise", self.label_noise, "in [0, 1)")
        _require(
            self.harmful_share is None or 0.1 <= self.harmful_share <= 1,
            "harmful_share",
            self.harmful_share,
            "from 0.1 to 1",
        )

    @property
    def changes_models(self) -> bool:
        """Whether the pre-training differs from the world's own."""
        return self.pretraining_steps is not None or self.label_noise is not None


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r} is not valid: it must be {expected}")
