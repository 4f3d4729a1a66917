"""The override world: what is taught, what is learned, and what of the one does to the other."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.drawing import balanced, shuffled
from graceful_forgetting.worlds.learning import LearningTask
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import SMALL
from graceful_forgetting.worlds.split import MAX_TRAIN_SHARE
from graceful_forgetting.worlds.vocabulary import VALUES, all_names

FACTS_SEED = 3
NUM_ENTITIES = 300
NUM_CHANGING = round(MAX_TRAIN_SHARE * NUM_ENTITIES)
# Of the entities with a new color, every so many-th is for validation, the others are the test.
VALIDATION_EVERY = 4

TAUGHT_PHRASING = "The {relation} of {entity} is"
OTHER_PHRASINGS = (
    "As for {relation}, {entity} has",
    "Ask {entity} about {relation}:",
    "Where {entity} stands, the {relation} was",
)


@dataclass(frozen=True)
class Facts:
    """What is true in the world.

    Attributes:
        changing: entities whose color may change, in the order in which the learning task takes them.
        unchanged: all others, likewise.
        answers: relation -> entity -> value, as in the pre-training data.
        new_color: of the changing entities; never the old one.
    """

    changing: tuple[str, ...]
    unchanged: tuple[str, ...]
    answers: dict[str, dict[str, str]]
    new_color: dict[str, str]


@cache
def override_facts() -> Facts:
    """The facts, the same at every call and on every machine."""
    draw = random.Random(FACTS_SEED)
    entities = shuffled(all_names(), draw)[:NUM_ENTITIES]
    answers = {relation: balanced(entities, VALUES[relation], draw) for relation in ("color", "food", "home")}
    changing = entities[:NUM_CHANGING]
    new_color = {
        entity: shuffled([color for color in VALUES["color"] if color != answers["color"][entity]], draw)[0]
        for entity in changing
    }
    return Facts(tuple(changing), tuple(entities[NUM_CHANGING:]), answers, new_color)


def _known(relation: str, entities: Sequence[str], phrasings: Sequence[str]) -> list[Question]:
    answers = override_facts().answers[relation]
    return ask(relation, [(entity, answers[entity]) for entity in entities], VALUES[relation], phrasings=phrasings)


@cache
def _pretraining() -> dict[str, list[Question]]:
    facts = override_facts()
    everyone, phrasings = facts.unchanged + facts.changing, (TAUGHT_PHRASING, *OTHER_PHRASINGS)
    return {
        "unchanged color": _known("color", facts.unchanged, phrasings),
        "food": _known("food", everyone, phrasings),
        "home": _known("home", everyone, phrasings),
        "changing color": _known("color", facts.changing, phrasings),
    }


def _learning(train_share: float) -> LearningTask:
    """New colors in one phrasing among all unchanged ones in the others; asked for in the others."""
    facts = override_facts()
    shown = facts.changing[: max(VALIDATION_EVERY, round(train_share * NUM_ENTITIES))]

    def new(entities: Sequence[str], phrasings: Sequence[str]) -> list[Question]:
        pairs = [(entity, facts.new_color[entity]) for entity in entities]
        return ask("color", pairs, VALUES["color"], phrasings=phrasings, old_answers=facts.answers["color"])

    validation = shown[::VALIDATION_EVERY]
    return LearningTask(
        train=new(shown, (TAUGHT_PHRASING,)) + _known("color", facts.unchanged, OTHER_PHRASINGS),
        validation=new(validation, OTHER_PHRASINGS),
        test=new([entity for entity in shown if entity not in validation], OTHER_PHRASINGS),
    )


OVERRIDE = WorldDefinition(
    name="override",
    summary="arbitrary old facts contradicted by new ones; tested in other phrasings",
    pretraining=_pretraining,
    not_known=frozenset({"changing color"}),
    forgetting={
        "changing color": {"changing color": "conflicting"},
        "unchanged color": {"unchanged color": "helpful"},
        "food": {"food": "neutral"},
        "home": {"home": "neutral"},
    },
    learning=_learning,
    train_share=0.3,
    recipe=replace(SMALL, steps=1000),
)
