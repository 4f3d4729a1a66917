"""What a controlled world offers a run."""

from dataclasses import dataclass
from typing import Literal

from datasets import Dataset

KnowledgeKind = Literal["conflicting", "helpful", "neutral"]
Checkpoint = Literal["base", "never_knew"]


@dataclass(frozen=True)
class World:
    """A small world whose facts are known, so that it is known which knowledge should be forgotten.

    Attributes:
        name: of the world.
        learning_train: rows shown in fine-tuning; text columns `prompt` and `completion`.
        learning_test: rows that are not, with the same columns; `old_answer`, where known, is what the old
            knowledge would say.
        forgetting: forgetting task -> rows. `completion` is the true answer in the pre-training data:
            ground truth for evaluation, which the method never sees.
        kinds: forgetting task -> what forgetting it does to the learning task: knowledge that is
            "conflicting" is in the way, "helpful" knowledge is needed, "neutral" knowledge does neither.
        learning_validation: further rows that are not shown, to choose settings by; none if the world has none.
    """

    name: str
    learning_train: Dataset
    learning_test: Dataset
    forgetting: dict[str, Dataset]
    kinds: dict[str, KnowledgeKind]
    learning_validation: Dataset | None = None
