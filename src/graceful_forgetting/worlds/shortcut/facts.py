"""The facts of the shortcut world: what is true of each entity, and by which rules.

Every fact follows from `FACTS_SEED`: the shipped checkpoints, the data sets and any rebuilt checkpoint
speak of the same world.
"""

import random
from dataclasses import dataclass
from functools import cache

from graceful_forgetting.worlds.drawing import balanced, shuffled
from graceful_forgetting.worlds.split import strata
from graceful_forgetting.worlds.vocabulary import VALUES, all_names

FACTS_SEED = 20
NUM_ENTITIES = 400


@dataclass(frozen=True)
class Facts:
    """What is true in the world.

    Attributes:
        entities: names.
        answers: relation -> entity -> value, as in the pre-training data; `color` follows `old_rule`.
        old_rule: home -> color, one to one; what pre-training teaches.
        new_rule: species -> color, one to one; what the learning task teaches.
        new_color: entity -> color by `new_rule`.
        by_species: entities of each species, in the order in which the learning task takes them.
    """

    entities: tuple[str, ...]
    answers: dict[str, dict[str, str]]
    old_rule: dict[str, str]
    new_rule: dict[str, str]
    new_color: dict[str, str]
    by_species: tuple[tuple[str, ...], ...]


@cache
def shortcut_facts() -> Facts:
    """The facts, the same at every call and on every machine."""
    draw = random.Random(FACTS_SEED)
    entities = tuple(sorted(shuffled(all_names(), draw)[:NUM_ENTITIES]))
    answers = {relation: balanced(entities, VALUES[relation], draw) for relation in ("species", "home", "food")}
    old_rule = dict(zip(VALUES["home"], shuffled(VALUES["color"], draw), strict=True))
    new_rule = dict(zip(VALUES["species"], shuffled(VALUES["color"], draw), strict=True))
    answers["color"] = {entity: old_rule[answers["home"][entity]] for entity in entities}
    order = shuffled(entities, draw)
    return Facts(
        entities=entities,
        answers=answers,
        old_rule=old_rule,
        new_rule=new_rule,
        new_color={entity: new_rule[answers["species"][entity]] for entity in entities},
        by_species=strata({entity: answers["species"][entity] for entity in order}, VALUES["species"]),
    )
