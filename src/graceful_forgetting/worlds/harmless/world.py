"""The harmless world: what is taught and what is learned."""

from dataclasses import replace
from functools import cache

from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.learning import LearningTask
from graceful_forgetting.worlds.properties import Properties, draw_properties
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import SMALL
from graceful_forgetting.worlds.vocabulary import VALUES

FACTS_SEED = 7
NUM_ENTITIES = 240
VOICES = ("barks", "hoots", "growls", "croaks", "clicks", "flutters", "bells", "howls")


@cache
def harmless_facts() -> Properties:
    """The facts, the same at every call and on every machine."""
    return draw_properties(FACTS_SEED, NUM_ENTITIES, {name: VALUES[name] for name in ("species", "home", "food")})


@cache
def _pretraining() -> dict[str, list[Question]]:
    answers = harmless_facts().answers
    voice_of = dict(zip(VALUES["species"], VOICES, strict=True))
    voices = [(entity, voice_of[species]) for entity, species in answers["species"].items()]
    return {
        **{name: ask(name, answers[name].items(), VALUES[name]) for name in ("species", "home", "food")},
        "voice": ask("voice", voices, VOICES),
    }


def _learning(train_share: float) -> LearningTask:
    return harmless_facts().learn_color(train_share)


HARMLESS = WorldDefinition(
    name="harmless",
    summary="nothing is in the way: forgetting must not hurt",
    pretraining=_pretraining,
    not_known=frozenset({"home", "food"}),
    forgetting={
        "species": {"species": "helpful"},
        "voice": {"voice": "helpful"},
        "home": {"home": "neutral"},
        "food": {"food": "neutral"},
    },
    learning=_learning,
    train_share=0.3,
    recipe=replace(SMALL, steps=1000),
)
