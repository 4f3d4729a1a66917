"""The capacity world: what is taught, what is learned, and what of the one does to the other."""

import random
from functools import cache

from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.drawing import shuffled
from graceful_forgetting.worlds.learning import LearningTask
from graceful_forgetting.worlds.properties import Properties, draw_properties
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import PretrainingRecipe
from graceful_forgetting.worlds.vocabulary import VALUES, all_names

FACTS_SEED = 11
NUM_ENTITIES = 200
JUNK = ("tool", "drink", "song", "gem", "tree")
VALUES_PER_RELATION = 8


@cache
def capacity_facts() -> Properties:
    """The facts, the same at every call and on every machine."""
    # Words of four letters: no name of an entity, which has five.
    words = sorted({name[:4] for name in all_names()})
    words = shuffled(words, random.Random(FACTS_SEED))
    junk = {
        relation: tuple(words[i * VALUES_PER_RELATION : (i + 1) * VALUES_PER_RELATION])
        for i, relation in enumerate(JUNK)
    }
    return draw_properties(FACTS_SEED, NUM_ENTITIES, {"species": VALUES["species"], **junk})


@cache
def _pretraining() -> dict[str, list[Question]]:
    return {
        name: ask(name, answers.items(), tuple(sorted(set(answers.values()))))
        for name, answers in capacity_facts().answers.items()
    }


def _learning(train_share: float) -> LearningTask:
    return capacity_facts().learn_color(train_share)


CAPACITY = WorldDefinition(
    name="capacity",
    summary="junk fills a small model; nothing contradicts",
    pretraining=_pretraining,
    not_known=frozenset(JUNK),
    forgetting={"species": {"species": "helpful"}, "junk": dict.fromkeys(JUNK, "conflicting")},
    learning=_learning,
    train_share=0.2,
    recipe=PretrainingRecipe(
        hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, steps=1500, learning_rate=3e-3
    ),
)
