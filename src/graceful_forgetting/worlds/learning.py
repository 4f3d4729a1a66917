"""The learning task of a world: one question about many entities, some shown and others tested."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graceful_forgetting.worlds.questions import PHRASINGS, Question, ask
from graceful_forgetting.worlds.split import split


@dataclass(frozen=True)
class LearningTask:
    """Questions of the learning task; none of one part is in another.

    Attributes:
        train: shown in fine-tuning.
        validation: to choose settings by.
        test: for the final measure.
    """

    train: list[Question]
    validation: list[Question]
    test: list[Question]


def split_task(
    relation: str,
    answers: Mapping[str, str],
    choices: tuple[str, ...],
    strata: Sequence[Sequence[str]],
    train_share: float,
    *,
    phrasings: Sequence[str] = PHRASINGS,
    old_answers: dict[str, str] | None = None,
) -> LearningTask:
    """A learning task whose parts ask the same of different entities, in every phrasing.

    Args:
        relation: what is asked.
        answers: entity -> new answer; its order is that of the rows.
        choices: every possible answer.
        strata: the entities in groups of which the same shares are shown, in the order in which they are taken.
        train_share: share of the entities that is shown.
        phrasings: formats with `{relation}` and `{entity}`.
        old_answers: entity -> what pre-training taught, if it did.
    """
    parts = split(strata, train_share)

    def questions(chosen: frozenset[str]) -> list[Question]:
        pairs = [(entity, answer) for entity, answer in answers.items() if entity in chosen]
        return ask(relation, pairs, choices, phrasings=phrasings, old_answers=old_answers)

    return LearningTask(questions(parts.train), questions(parts.validation), questions(parts.test))
