"""The facts of the shortcut world: what is true of each entity, by which rules, and who is shown in the
learning task.

Every fact follows from `FACTS_SEED`: the shipped checkpoints, the data sets and any rebuilt checkpoint
speak of the same world.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from graceful_forgetting.worlds.shortcut.vocabulary import VALUES, all_names

FACTS_SEED = 20
NUM_ENTITIES = 400
TRAIN_SHARE = 0.2


@dataclass(frozen=True)
class Facts:
    """What is true in the world.

    Attributes:
        entities: names.
        answers: relation -> entity -> value, as in the pre-training data; `color` follows `old_rule`.
        old_rule: home -> color, one to one; what pre-training teaches.
        new_rule: species -> color, one to one; what the learning task teaches.
        train_entities: entities shown in the learning task, the same number of each species.
        test_entities: all others.
    """

    entities: tuple[str, ...]
    answers: dict[str, dict[str, str]]
    old_rule: dict[str, str]
    new_rule: dict[str, str]
    train_entities: tuple[str, ...]
    test_entities: tuple[str, ...]

    def new_color(self, entity: str) -> str:
        """Color of an entity in the learning task."""
        return self.new_rule[self.answers["species"][entity]]


@cache
def shortcut_facts() -> Facts:
    """The facts, the same at every call and on every machine."""
    draw = random.Random(FACTS_SEED)
    entities = tuple(sorted(_shuffled(all_names(), draw)[:NUM_ENTITIES]))
    answers = {relation: _balanced(entities, VALUES[relation], draw) for relation in ("species", "home", "food")}
    old_rule = dict(zip(VALUES["home"], _shuffled(VALUES["color"], draw), strict=True))
    new_rule = dict(zip(VALUES["species"], _shuffled(VALUES["color"], draw), strict=True))
    answers["color"] = {entity: old_rule[answers["home"][entity]] for entity in entities}

    order = _shuffled(entities, draw)
    shown = round(TRAIN_SHARE * NUM_ENTITIES / len(VALUES["species"]))
    train = {
        entity
        for species in VALUES["species"]
        for entity in [e for e in order if answers["species"][e] == species][:shown]
    }
    return Facts(
        entities=entities,
        answers=answers,
        old_rule=old_rule,
        new_rule=new_rule,
        train_entities=tuple(e for e in entities if e in train),
        test_entities=tuple(e for e in entities if e not in train),
    )


def _shuffled(items: Sequence[str], draw: random.Random) -> list[str]:
    # Of the module's methods, Python promises the sequence of `random()` alone across its versions.
    return [item for _, item in sorted((draw.random(), item) for item in items)]


def _balanced(entities: Sequence[str], values: Sequence[str], draw: random.Random) -> dict[str, str]:
    """Every value for the same number of entities (give or take one), independent of other relations."""
    order = _shuffled(entities, draw)
    drawn = {entity: values[i % len(values)] for i, entity in enumerate(order)}
    return {entity: drawn[entity] for entity in entities}
