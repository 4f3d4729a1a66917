"""What an unlearning update minimises: the interface (`objective.py`) and one page of formulas (`formulas.py`)."""

from graceful_forgetting.unlearning.objectives.formulas import OBJECTIVES, objective_code, objective_of
from graceful_forgetting.unlearning.objectives.objective import Need, Objective, UnlearningBatch

__all__ = ["OBJECTIVES", "Need", "Objective", "UnlearningBatch", "objective_code", "objective_of"]
