"""What an unlearning update minimises: the interface (`objective.py`) and one page of formulas (`formulas.py`)."""

from graceful_forgetting.unlearning.objectives.formulas import OBJECTIVES, objective_code, objective_of
from graceful_forgetting.unlearning.objectives.objective import OF_LEARNING_ROWS, Need, Objective, UnlearningBatch

__all__ = ["OBJECTIVES", "OF_LEARNING_ROWS", "Need", "Objective", "UnlearningBatch", "objective_code", "objective_of"]
