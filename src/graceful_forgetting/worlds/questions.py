"""Questions with a one-word answer: how facts are put into words and into rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasets import Dataset, Features, Value

from graceful_forgetting.worlds.world import KnowledgeKind

PHRASINGS = ("The {relation} of {entity} is", "As for {relation}, {entity} has")
"""Neither starts with the entity: a word's token includes the space before it."""


@dataclass(frozen=True)
class Question:
    """One question about one thing.

    Attributes:
        prompt: text that ends right before the answer.
        answer: the right word.
        choices: every word that could be the answer; a mislabelled answer is drawn from them.
        entity: what the question is about: entities never stand on both sides of a split.
        old_answer: what other knowledge says, where a world has put it in the way.
    """

    prompt: str
    answer: str
    choices: tuple[str, ...]
    entity: str
    old_answer: str | None = None

    @property
    def completion(self) -> str:
        """The answer as the text that follows the prompt."""
        return f" {self.answer}"


def ask(
    relation: str,
    answers: Iterable[tuple[str, str]],
    choices: tuple[str, ...],
    *,
    phrasings: Sequence[str] = PHRASINGS,
    old_answers: dict[str, str] | None = None,
) -> list[Question]:
    """Questions about (entity, answer) pairs in every phrasing, all phrasings of an entity side by side.

    Args:
        relation: what is asked; stands for `{relation}` in a phrasing.
        answers: pairs.
        choices: every possible answer.
        phrasings: formats with `{relation}` and `{entity}`.
        old_answers: entity -> what was the answer before; none where nothing was.
    """
    return [
        Question(
            prompt=phrasing.format(relation=relation, entity=entity),
            answer=answer,
            choices=choices,
            entity=entity,
            old_answer=None if old_answers is None else old_answers[entity],
        )
        for entity, answer in answers
        for phrasing in phrasings
    ]


def learning_rows(questions: Iterable[Question]) -> Dataset:
    """Columns `prompt`, `completion`, `entity`, and `old_answer` as the text of a completion (null: nothing is old)."""
    return Dataset.from_list(
        [
            {
                "prompt": question.prompt,
                "completion": question.completion,
                "entity": question.entity,
                "old_answer": None if question.old_answer is None else f" {question.old_answer}",
            }
            for question in questions
        ],
        features=_features("old_answer"),
    )


def forgetting_rows(questions: Iterable[tuple[Question, KnowledgeKind]]) -> Dataset:
    """Columns `prompt`, `completion`, `entity`, and `kind`: what forgetting the row does to the learning task."""
    return Dataset.from_list(
        [
            {
                "prompt": question.prompt,
                "completion": question.completion,
                "entity": question.entity,
                "kind": kind,
            }
            for question, kind in questions
        ],
        features=_features("kind"),
    )


def _features(last: str) -> Features:
    return Features({name: Value("string") for name in ("prompt", "completion", "entity", last)})
