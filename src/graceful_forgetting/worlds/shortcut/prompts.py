"""How facts are put into words: two phrasings of every question, the answer as completion."""

from collections.abc import Iterable

from datasets import Dataset

PHRASINGS = ("The {relation} of {entity} is", "As for {relation}, {entity} has")
"""Neither starts with the entity: a word's token includes the space before it."""


def question(relation: str, entity: str, phrasing: int) -> str:
    """A prompt that ends right before the answer."""
    return PHRASINGS[phrasing].format(relation=relation, entity=entity)


def completion(answer: str) -> str:
    """An answer as the text that follows a prompt."""
    return f" {answer}"


def question_rows(relation: str, answers: Iterable[tuple[str, str]]) -> Dataset:
    """Rows of (entity, answer) pairs in both phrasings.

    Columns: `prompt`, `completion`, and `entity` for analysis.
    """
    return Dataset.from_list(
        [
            {
                "prompt": question(relation, entity, phrasing),
                "completion": completion(answer),
                "entity": entity,
            }
            for entity, answer in answers
            for phrasing in range(len(PHRASINGS))
        ]
    )
