"""The shortcut world: what is taught, what is learned, and what of the one does to the other."""

from functools import cache

from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.learning import LearningTask, split_task
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import PretrainingRecipe
from graceful_forgetting.worlds.shortcut.facts import shortcut_facts
from graceful_forgetting.worlds.vocabulary import VALUES


@cache
def _pretraining() -> dict[str, list[Question]]:
    answers = shortcut_facts().answers
    return {
        relation: ask(relation, answers[relation].items(), VALUES[relation])
        for relation in ("species", "home", "food", "color")
    }


def _learning(train_share: float) -> LearningTask:
    facts = shortcut_facts()
    return split_task(
        "color",
        facts.new_color,
        VALUES["color"],
        facts.by_species,
        train_share,
        old_answers=facts.answers["color"],
    )


SHORTCUT = WorldDefinition(
    name="shortcut",
    summary="an old rule (color follows from home) against a new one (color follows from species)",
    pretraining=_pretraining,
    not_known=frozenset({"color"}),
    forgetting={
        "color": {"color": "conflicting"},
        "species": {"species": "helpful"},
        # The old colors are read from what the model knows of homes: forgetting homes helps too, though less.
        "home": {"home": "conflicting"},
        "food": {"food": "neutral"},
    },
    learning=_learning,
    train_share=0.2,
    recipe=PretrainingRecipe(),
)
