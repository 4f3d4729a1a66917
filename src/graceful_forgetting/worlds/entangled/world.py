"""The entangled world: what is taught, what is learned, and what of the one does to the other."""

import random
from dataclasses import dataclass, replace
from functools import cache

from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.drawing import balanced, shuffled
from graceful_forgetting.worlds.learning import LearningTask, split_task
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import SMALL
from graceful_forgetting.worlds.vocabulary import VALUES, all_names

FACTS_SEED = 3
NUM_ENTITIES = 150


@dataclass(frozen=True)
class Facts:
    """What is true in the world.

    Attributes:
        color: entity -> its color in spring, summer and autumn, and what the learning task says of winter.
        old_winter_color: entity -> what pre-training says of winter.
        food: entity -> its food.
    """

    color: dict[str, str]
    old_winter_color: dict[str, str]
    food: dict[str, str]


@cache
def entangled_facts() -> Facts:
    """The facts, the same at every call and on every machine."""
    draw = random.Random(FACTS_SEED)
    entities = shuffled(all_names(), draw)[:NUM_ENTITIES]
    return Facts(
        color=balanced(entities, VALUES["color"], draw),
        old_winter_color=balanced(entities, VALUES["color"], draw),
        food=balanced(entities, VALUES["food"], draw),
    )


@cache
def _pretraining() -> dict[str, list[Question]]:
    facts = entangled_facts()
    return {
        **{f"{season} color": _colors(season, facts.color) for season in ("spring", "summer", "autumn")},
        "winter color": _colors("winter", facts.old_winter_color),
        "food": ask("food", facts.food.items(), VALUES["food"]),
    }


def _colors(season: str, color: dict[str, str]) -> list[Question]:
    return ask(f"{season} color", color.items(), VALUES["color"])


def _learning(train_share: float) -> LearningTask:
    """The winter color, which is now that of the other seasons, in both phrasings."""
    facts = entangled_facts()
    return split_task(
        "winter color",
        facts.color,
        VALUES["color"],
        [list(facts.color)],
        train_share,
        old_answers=facts.old_winter_color,
    )


ENTANGLED = WorldDefinition(
    name="entangled",
    summary="helpful and conflicting facts about the same entities, in one forgetting task",
    pretraining=_pretraining,
    not_known=frozenset({"winter color"}),
    forgetting={
        "color": {
            "spring color": "helpful",
            "summer color": "helpful",
            "autumn color": "helpful",
            "winter color": "conflicting",
        },
        "food": {"food": "neutral"},
    },
    learning=_learning,
    train_share=0.2,
    recipe=replace(SMALL, steps=800),
)
