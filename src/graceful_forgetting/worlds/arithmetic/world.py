"""The arithmetic world: what is taught, what is learned, and what of the one does to the other."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.drawing import shuffled
from graceful_forgetting.worlds.learning import LearningTask, split_task
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.recipe import SMALL

MODULUS = 11
ORDER_SEED = 1

PHRASINGS = ("What is {entity}?", "Take {entity} to get")
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


def _results(operator: str, meaning: Callable[[int, int], int]) -> dict[str, str]:
    """`3 + 4` -> `7`, for all operands."""
    numbers = range(MODULUS)
    return {f"{a} {operator} {b}": str(meaning(a, b)) for a in numbers for b in numbers}


@cache
def _pretraining() -> dict[str, list[Question]]:
    return {
        operator: ask(operator, _results(operator, meaning).items(), NUMBERS, phrasings=PHRASINGS)
        for operator, meaning in OPERATORS.items()
    }


def _learning(train_share: float) -> LearningTask:
    """Sums, asked for with `@`, in both phrasings."""
    answers = _results("@", add)
    order = shuffled(list(answers), random.Random(ORDER_SEED))
    old_answers = _results("@", subtract)
    return split_task("@", answers, NUMBERS, [order], train_share, phrasings=PHRASINGS, old_answers=old_answers)


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
    recipe=replace(SMALL, steps=2000),
)
