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
        learning_train: rows shown in fine-tuning. Text columns `prompt`, `completion` (the new answer), `entity`,
            and `old_answer`: the completion that older knowledge would give, null where there is none.
        learning_validation: rows with the same columns to choose settings by; about other entities than the test.
        learning_test: rows with the same columns for the final measure. The same rows whatever `train_share` is,
            unless the world says otherwise.
        forgetting: forgetting task -> rows. `completion` is the true answer in the pre-training data: ground truth
            for evaluation, which the method never sees. So is `kind`, what forgetting the row does to the learning
            task: knowledge that is "conflicting" is in the way, "helpful" knowledge is needed, "neutral" knowledge
            does neither.
        kinds: forgetting task -> the kind of all its rows; None where they differ.
    """

    name: str
    learning_train: Dataset
    learning_validation: Dataset
    learning_test: Dataset
    forgetting: dict[str, Dataset]
    kinds: dict[str, KnowledgeKind | None]
