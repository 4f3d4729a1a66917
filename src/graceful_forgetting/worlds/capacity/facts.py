"""The facts of the capacity world."""

import random
from dataclasses import dataclass
from functools import cache

from graceful_forgetting.worlds.drawing import balanced, shuffled
from graceful_forgetting.worlds.split import strata
from graceful_forgetting.worlds.vocabulary import VALUES, all_names

FACTS_SEED = 11
NUM_ENTITIES = 200
JUNK = ("tool", "drink", "song", "gem", "tree")
VALUES_PER_RELATION = 8


@dataclass(frozen=True)
class Facts:
    """What is true in the world.

    Attributes:
        values: relation -> its possible values.
        answers: relation -> entity -> value, as in the pre-training data; relations are independent.
        color: entity -> its color in the learning task, which follows from the species.
        by_species: entities of each species, in the order in which the learning task takes them.
    """

    values: dict[str, tuple[str, ...]]
    answers: dict[str, dict[str, str]]
    color: dict[str, str]
    by_species: tuple[tuple[str, ...], ...]


@cache
def capacity_facts() -> Facts:
    """The facts, the same at every call and on every machine."""
    draw = random.Random(FACTS_SEED)
    # Words of four letters: no name of an entity, which has five.
    words = shuffled(sorted({name[:4] for name in all_names()}), draw)
    size = VALUES_PER_RELATION
    values = {"species": VALUES["species"]}
    values |= {relation: tuple(words[i * size : (i + 1) * size]) for i, relation in enumerate(JUNK)}
    entities = shuffled(all_names(), draw)[:NUM_ENTITIES]
    answers = {relation: balanced(entities, words, draw) for relation, words in values.items()}
    rule = dict(zip(VALUES["species"], shuffled(VALUES["color"], draw), strict=True))
    return Facts(
        values=values,
        answers=answers,
        color={entity: rule[species] for entity, species in answers["species"].items()},
        by_species=strata(answers["species"], VALUES["species"]),
    )
