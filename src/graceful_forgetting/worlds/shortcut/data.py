"""The data sets of the shortcut world, with the ground truth of what conflicts and what helps."""

from graceful_forgetting.worlds.shortcut.facts import shortcut_facts
from graceful_forgetting.worlds.shortcut.prompts import question_rows
from graceful_forgetting.worlds.world import KnowledgeKind, World

NAME = "shortcut"

KINDS: dict[str, KnowledgeKind] = {
    "color": "conflicting",
    "species": "helpful",
    # The old colors are read from what the model knows of homes: forgetting homes helps too, though less.
    "home": "conflicting",
    "food": "neutral",
}


def load_shortcut() -> World:
    """The world's data sets, the same at every call.

    Learning: the color of an entity by its species, in both phrasings. Forgetting: what pre-training taught
    of each relation about every entity, in both phrasings.
    """
    facts = shortcut_facts()
    return World(
        name=NAME,
        learning_train=question_rows("color", [(e, facts.new_color(e)) for e in facts.train_entities]),
        learning_test=question_rows("color", [(e, facts.new_color(e)) for e in facts.test_entities]),
        forgetting={relation: question_rows(relation, facts.answers[relation].items()) for relation in KINDS},
        kinds=dict(KINDS),
    )
