"""Random draws that are the same on every machine and Python version."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def shuffled(items: Sequence[T], draw: random.Random) -> list[T]:
    """The items in random order.

    Of the methods of `random.Random`, Python promises the sequence of `random()` alone across its versions.
    """
    return [item for _, item in sorted((draw.random(), item) for item in items)]


def balanced(entities: Sequence[str], values: Sequence[str], draw: random.Random) -> dict[str, str]:
    """Every value for the same number of entities (give or take one), in random order."""
    order = shuffled(entities, draw)
    drawn = {entity: values[i % len(values)] for i, entity in enumerate(order)}
    return {entity: drawn[entity] for entity in entities}
