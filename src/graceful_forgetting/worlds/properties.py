"""Entities with independent properties: in several worlds the learning task is a color that follows from one."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graceful_forgetting.worlds.drawing import balanced, shuffled
from graceful_forgetting.worlds.learning import LearningTask, split_task
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

    def learn_color(self, train_share: float) -> LearningTask:
        """The learning task: colors, for `train_share` of every species."""
        return split_task("color", self.color, VALUES["color"], self.by_species, train_share)


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
