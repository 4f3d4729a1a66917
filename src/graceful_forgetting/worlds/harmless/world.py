"""The harmless world: what is taught and what is learned."""

from functools import cache

from graceful_forgetting.worlds.color_task import Properties, draw_properties, learn_color
from graceful_forgetting.worlds.definition import LearningTask, WorldDefinition
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import PretrainingRecipe
from graceful_forgetting.worlds.vocabulary import VALUES

FACTS_SEED = 7
NUM_ENTITIES = 200


@cache
def harmless_facts() -> Properties:
    """The facts, the same at every call and on every machine."""
    return draw_properties(FACTS_SEED, NUM_ENTITIES, {name: VALUES[name] for name in ("species", "home", "food")})


@cache
def _pretraining() -> dict[str, list[Question]]:
    return {name: ask(name, answers.items(), VALUES[name]) for name, answers in harmless_facts().answers.items()}


def _learning(train_share: float) -> LearningTask:
    facts = harmless_facts()
    return learn_color(facts.color, facts.by_species, train_share)


HARMLESS = WorldDefinition(
    name="harmless",
    summary="nothing is in the way: forgetting must not hurt",
    pretraining=_pretraining,
    not_known=frozenset({"home", "food"}),
    forgetting={"species": {"species": "helpful"}, "home": {"home": "neutral"}, "food": {"food": "neutral"}},
    learning=_learning,
    train_share=0.2,
    recipe=PretrainingRecipe(
        hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, steps=800, learning_rate=3e-3
    ),
)
