"""The arithmetic world: what is taught, what is learned, and what of the one does to the other."""

import random
from collections.abc import Callable, Iterable
from functools import cache

from graceful_forgetting.worlds.definition import LearningTask, WorldDefinition
from graceful_forgetting.worlds.drawing import shuffled
from graceful_forgetting.worlds.questions import Question
from graceful_forgetting.worlds.recipe import PretrainingRecipe
from graceful_forgetting.worlds.split import split

MODULUS = 11
ORDER_SEED = 1

PHRASINGS = ("What is {a} {operator} {b}?", "Take {a} {operator} {b} to get")
NUMBERS = tuple(str(number) for number in range(MODULUS))


def add(a: int, b: int) -> int:
    return (a + b) % MODULUS


def subtract(a: int, b: int) -> int:
    return (a - b) % MODULUS


# What pre-training teaches; the learning task gives `@` the meaning of the sum.
OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": add,
    "plus": add,
    "and": add,
    "max": max,
    "@": subtract,
}


def pair_name(a: int, b: int) -> str:
    """What stands in the column `entity`."""
    return f"{a},{b}"


def _ask(
    operator: str,
    meaning: Callable[[int, int], int],
    pairs: Iterable[tuple[int, int]],
    old: Callable[[int, int], int] | None = None,
) -> list[Question]:
    return [
        Question(
            prompt=phrasing.format(a=a, b=b, operator=operator),
            answer=str(meaning(a, b)),
            choices=NUMBERS,
            entity=pair_name(a, b),
            old_answer=None if old is None else str(old(a, b)),
        )
        for a, b in pairs
        for phrasing in PHRASINGS
    ]


def _pairs() -> list[tuple[int, int]]:
    return [(a, b) for a in range(MODULUS) for b in range(MODULUS)]


@cache
def _pretraining() -> dict[str, list[Question]]:
    return {operator: _ask(operator, meaning, _pairs()) for operator, meaning in OPERATORS.items()}


def _learning(train_share: float) -> LearningTask:
    """Sums, asked for with `@`, in both phrasings."""
    order = shuffled([pair_name(a, b) for a, b in _pairs()], random.Random(ORDER_SEED))
    parts = split([order], train_share)

    def questions(chosen: frozenset[str]) -> list[Question]:
        return _ask("@", add, [pair for pair in _pairs() if pair_name(*pair) in chosen], old=subtract)

    return LearningTask(questions(parts.train), questions(parts.validation), questions(parts.test))


ARITHMETIC = WorldDefinition(
    name="arithmetic",
    summary="an operator that meant the difference comes to mean the sum; tested on other operands",
    pretraining=_pretraining,
    not_known=frozenset({"@"}),
    forgetting={
        "@": {"@": "conflicting"},
        "sum": {"+": "helpful", "plus": "helpful", "and": "helpful"},
        "max": {"max": "neutral"},
    },
    learning=_learning,
    train_share=0.1,
    recipe=PretrainingRecipe(
        hidden_size=64, intermediate_size=128, num_layers=2, num_heads=4, steps=1200, learning_rate=3e-3
    ),
)
