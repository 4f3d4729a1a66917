"""The entangled world: what is taught, what is learned, and what of the one does to the other."""

import random
from dataclasses import dataclass, replace
from functools import cache

from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.drawing import balanced, shuffled
from graceful_forgetting.worlds.learning import LearningTask
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import SMALL
from graceful_forgetting.worlds.seasons import KNOWN_SEASONS, learn_winter, season_colors, season_part
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
        **{season_part(season): season_colors(season, facts.color) for season in KNOWN_SEASONS},
        "winter color": season_colors("winter", facts.old_winter_color),
        "food": ask("food", facts.food.items(), VALUES["food"]),
    }


def _learning(train_share: float) -> LearningTask:
    facts = entangled_facts()
    return learn_winter(facts.color, train_share, facts.old_winter_color)


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
