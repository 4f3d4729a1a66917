"""The harmless world: what is taught and what is learned."""

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

FACTS_SEED = 7
NUM_ENTITIES = 150


@dataclass(frozen=True)
class Facts:
    """What is true in the world.

    Attributes:
        color: entity -> its color in all seasons.
        other: relation -> entity -> value, of what has nothing to do with colors.
    """

    color: dict[str, str]
    other: dict[str, dict[str, str]]


@cache
def harmless_facts() -> Facts:
    """The facts, the same at every call and on every machine."""
    draw = random.Random(FACTS_SEED)
    entities = shuffled(all_names(), draw)[:NUM_ENTITIES]
    return Facts(
        color=balanced(entities, VALUES["color"], draw),
        other={relation: balanced(entities, VALUES[relation], draw) for relation in ("food", "home")},
    )


@cache
def _pretraining() -> dict[str, list[Question]]:
    facts = harmless_facts()
    return {
        **{season_part(season): season_colors(season, facts.color) for season in KNOWN_SEASONS},
        **{relation: ask(relation, answers.items(), VALUES[relation]) for relation, answers in facts.other.items()},
    }


def _learning(train_share: float) -> LearningTask:
    return learn_winter(harmless_facts().color, train_share)


HARMLESS = WorldDefinition(
    name="harmless",
    summary="nothing is in the way: forgetting must not hurt",
    pretraining=_pretraining,
    not_known=frozenset({"food", "home"}),
    forgetting={
        "color": {season_part(season): "helpful" for season in KNOWN_SEASONS},
        "food": {"food": "neutral"},
        "home": {"home": "neutral"},
    },
    learning=_learning,
    train_share=0.2,
    recipe=replace(SMALL, steps=800),
)
