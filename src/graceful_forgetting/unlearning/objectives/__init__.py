"""What an unlearning update minimises: one file an objective, one line here."""

from collections.abc import Callable

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.unlearning.objectives.bounded_ascent import BoundedAscent
from graceful_forgetting.unlearning.objectives.bounded_tokens import BoundedTokens
from graceful_forgetting.unlearning.objectives.gradient_ascent import GradientAscent
from graceful_forgetting.unlearning.objectives.gradient_difference import GradientDifference
from graceful_forgetting.unlearning.objectives.npo import NPO
from graceful_forgetting.unlearning.objectives.objective import Need, Objective, UnlearningBatch
from graceful_forgetting.unlearning.objectives.simnpo import SimNPO
from graceful_forgetting.unlearning.objectives.uniform import Uniform
from graceful_forgetting.unlearning.objectives.unlikelihood import Unlikelihood

__all__ = ["OBJECTIVES", "Need", "Objective", "UnlearningBatch"]

# Each makes its objective from the settings of the run.
OBJECTIVES: dict[str, Callable[[LWFConfig], Objective]] = {
    "bounded_ascent": lambda args: BoundedAscent(args.unlearn_loss_cap),
    "bounded_tokens": lambda args: BoundedTokens(args.unlearn_loss_cap),
    "gradient_ascent": lambda _: GradientAscent(),
    "npo": lambda _: NPO(),
    "simnpo": lambda _: SimNPO(),
    "unlikelihood": lambda _: Unlikelihood(),
    "uniform": lambda _: Uniform(),
    "gradient_difference": lambda _: GradientDifference(),
}
