"""What an unlearning update minimises: one file an objective, one line here.

An objective maps the losses L(x) of a batch, shape (batch,), nats per token, and the settings to a value per sample,
shape (batch,), whose mean is minimised.
"""

from collections.abc import Callable

from torch import Tensor

from graceful_forgetting.unlearning.objectives.bounded_ascent import bounded_ascent
from graceful_forgetting.unlearning.objectives.gradient_ascent import gradient_ascent

Objective = Callable[[Tensor, float], Tensor]

OBJECTIVES: dict[str, Objective] = {
    "bounded_ascent": bounded_ascent,
    "gradient_ascent": gradient_ascent,
}
