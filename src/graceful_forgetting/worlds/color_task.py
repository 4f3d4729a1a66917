"""A learning task that several worlds share: the color of an entity follows from its species."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graceful_forgetting.worlds.definition import LearningTask
from graceful_forgetting.worlds.drawing import balanced, shuffled
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.split import split
from graceful_forgetting.worlds.vocabulary import VALUES, all_names


@dataclass(frozen=True)
class Properties:
    """Entities with independent properties, species among them.

    Attributes:
        answers: relation -> entity -> value.
        color: entity -> its color in the learning task, which follows from the species.
        by_species: entities of each species, in the order in which the learning task takes them.
    """

    answers: dict[str, dict[str, str]]
    color: dict[str, str]
    by_species: tuple[tuple[str, ...], ...]


def draw_properties(seed: int, num_entities: int, values: Mapping[str, Sequence[str]]) -> Properties:
    """Properties drawn from `seed`, the same on every machine.

    Args:
        seed: of the draw.
        num_entities: how many.
        values: relation -> its values; `species` must be among the relations.
    """
    draw = random.Random(seed)
    order = shuffled(all_names(), draw)[:num_entities]
    answers = {relation: balanced(order, words, draw) for relation, words in values.items()}
    rule = dict(zip(values["species"], shuffled(VALUES["color"], draw), strict=True))
    return Properties(
        answers=answers,
        color={entity: rule[species] for entity, species in answers["species"].items()},
        by_species=strata(answers["species"]),
    )


def strata(species: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Entities of each species, in the order in which they are given."""
    return tuple(tuple(e for e, value in species.items() if value == name) for name in VALUES["species"])


def learn_color(
    color: Mapping[str, str],
    by_species: Sequence[Sequence[str]],
    train_share: float,
    old_color: dict[str, str] | None = None,
) -> LearningTask:
    """Colors of entities, each asked for in both phrasings.

    Args:
        color: entity -> answer; its order is that of the rows.
        by_species: the entities of each species, in the order in which they are taken.
        train_share: share of every species that is shown.
        old_color: entity -> what pre-training taught, if it did.
    """
    parts = split(by_species, train_share)

    def questions(chosen: frozenset[str]) -> list[Question]:
        pairs = [(entity, answer) for entity, answer in color.items() if entity in chosen]
        return ask("color", pairs, VALUES["color"], old_answers=old_color)

    return LearningTask(questions(parts.train), questions(parts.validation), questions(parts.test))
