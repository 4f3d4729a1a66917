"""Stops unlearning before it ruins what is being learned."""

from dataclasses import asdict, dataclass, field
from typing import Any

_SMOOTHING = 0.9


@dataclass
class Guard:
    """Watches the learning loss and the held-out losses and ends unlearning for good when one degrades.

    The learning loss is smoothed (exponential mean, weight 0.9 on the past, corrected for its start). Unlearning
    ends when it, or a held-out loss, exceeds its own lowest value so far by more than `margin`.

    Args:
        margin: nats per token; none: it never stops.
    """

    margin: float | None
    stopped: bool = False
    reason: str | None = None
    step: int | None = None
    mean: float = 0.0
    weight: float = 0.0
    lowest: dict[str, float] = field(default_factory=dict)

    def observe_learning_loss(self, loss: float, step: int) -> None:
        """Take the loss of one learning update (nats per token)."""
        self.mean = _SMOOTHING * self.mean + (1 - _SMOOTHING) * loss
        self.weight = _SMOOTHING * self.weight + (1 - _SMOOTHING)
        self._check("smoothed learning loss", self.mean / self.weight, step)

    def observe_held_out_loss(self, name: str, loss: float, step: int) -> None:
        """Take the loss of one evaluation on the held-out set `name` (nats per token)."""
        self._check(f"held-out loss {name}", loss, step)

    def _check(self, what: str, value: float, step: int) -> None:
        lowest = self.lowest[what] = min(value, self.lowest.get(what, value))
        if self.margin is not None and not self.stopped and value > lowest + self.margin:
            self.stopped = True
            self.step = step
            self.reason = (
                f"the {what} rose to {value:.3f} nats per token, more than guard_margin={self.margin} above its "
                f"lowest value {lowest:.3f}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, as JSON types."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Guard":
        return cls(**state)
