"""The capacity world: what is taught, what is learned, and what of the one does to the other."""

from dataclasses import replace
from functools import cache

from graceful_forgetting.worlds.capacity.facts import JUNK, capacity_facts
from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.learning import LearningTask, split_task
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import SMALL
from graceful_forgetting.worlds.vocabulary import VALUES


@cache
def _pretraining() -> dict[str, list[Question]]:
    facts = capacity_facts()
    return {name: ask(name, answers.items(), facts.values[name]) for name, answers in facts.answers.items()}


def _learning(train_share: float) -> LearningTask:
    facts = capacity_facts()
    return split_task("color", facts.color, VALUES["color"], facts.by_species, train_share)


CAPACITY = WorldDefinition(
    name="capacity",
    summary="junk fills a small model; nothing contradicts",
    pretraining=_pretraining,
    not_known=frozenset(JUNK),
    forgetting={"species": {"species": "helpful"}, "junk": dict.fromkeys(JUNK, "conflicting")},
    learning=_learning,
    train_share=0.2,
    recipe=replace(SMALL, hidden_size=32, intermediate_size=64, steps=1500),
)
