"""What a world is made of, and the data sets that follow."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from graceful_forgetting.worlds.difficulty import Difficulty
from graceful_forgetting.worlds.drawing import shuffled
from graceful_forgetting.worlds.learning import LearningTask
from graceful_forgetting.worlds.questions import Question, forgetting_rows, learning_rows
from graceful_forgetting.worlds.recipe import PretrainingRecipe
from graceful_forgetting.worlds.world import Checkpoint, KnowledgeKind, World

_HARMFUL_SHARE_SEED = 0


@dataclass(frozen=True)
class WorldDefinition:
    """A world: what is taught before, what is learned, and what of the one does to the other.

    Attributes:
        name: of the world.
        summary: one line.
        pretraining: makes the questions of the pre-training by part, in the order in which they are taught.
        not_known: parts that the never-knew twin is not taught.
        forgetting: forgetting task -> part -> kind of that knowledge.
        learning: train share -> the learning task.
        train_share: of the world itself.
        recipe: of the world itself.
    """

    name: str
    summary: str
    pretraining: Callable[[], dict[str, list[Question]]]
    not_known: frozenset[str]
    forgetting: Mapping[str, Mapping[str, KnowledgeKind]]
    learning: Callable[[float], LearningTask]
    train_share: float
    recipe: PretrainingRecipe

    def parts(self, which: Checkpoint) -> list[str]:
        """Names of the parts that a model is taught."""
        return [part for part in self.pretraining() if which == "base" or part not in self.not_known]

    def recipe_at(self, difficulty: Difficulty) -> PretrainingRecipe:
        """The recipe with the difficulty's settings in place of the world's own."""
        changes: dict[str, Any] = {}
        if difficulty.pretraining_steps is not None:
            changes["steps"] = difficulty.pretraining_steps
        if difficulty.label_noise is not None:
            changes["label_noise"] = difficulty.label_noise
        return replace(self.recipe, **changes)

    def load(self, difficulty: Difficulty) -> World:
        """The data sets, the same at every call.

        Raises `ValueError` where the world has nothing harmful and a harmful share is asked for.
        """
        task = self.learning(self.train_share if difficulty.train_share is None else difficulty.train_share)
        parts = self.pretraining()
        known = {
            name: [(question, kind) for part, kind in kinds.items() for question in parts[part]]
            for name, kinds in self.forgetting.items()
        }
        if difficulty.harmful_share is not None:
            known = _with_harmful_share(self.name, known, difficulty.harmful_share)
        return World(
            name=self.name,
            learning_train=learning_rows(task.train),
            learning_validation=learning_rows(task.validation),
            learning_test=learning_rows(task.test),
            forgetting={name: forgetting_rows(questions) for name, questions in known.items()},
            kinds={name: _one_kind([kind for _, kind in questions]) for name, questions in known.items()},
        )


def _one_kind(kinds: list[KnowledgeKind]) -> KnowledgeKind | None:
    return kinds[0] if len(set(kinds)) == 1 else None


Known = dict[str, list[tuple[Question, KnowledgeKind]]]


def _with_harmful_share(world: str, known: Known, share: float) -> Known:
    """Leave out conflicting rows, or all others, until the former are `share` of the whole; drops emptied tasks.

    Which rows stay is drawn once: a smaller part is contained in a larger one.
    """
    order = shuffled(
        [(name, i) for name, rows in known.items() for i in range(len(rows))], random.Random(_HARMFUL_SHARE_SEED)
    )
    harmful = [(name, i) for name, i in order if known[name][i][1] == "conflicting"]
    others = [(name, i) for name, i in order if known[name][i][1] != "conflicting"]
    if not harmful:
        raise ValueError(f"harmful_share={share} is not valid: nothing in world {world!r} is harmful; leave it unset")
    if len(harmful) > share * len(order):
        harmful = harmful[: max(1, round(share / (1 - share) * len(others)))]
    else:
        others = others[: round((1 - share) / share * len(harmful))]
    kept = {*harmful, *others}
    left = {name: [row for i, row in enumerate(rows) if (name, i) in kept] for name, rows in known.items()}
    return {name: rows for name, rows in left.items() if rows}
