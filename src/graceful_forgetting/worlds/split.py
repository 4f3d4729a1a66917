"""Who is shown in the learning task and who is asked about afterwards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TEST_SHARE = 0.5
VALIDATION_SHARE = 0.2
MAX_TRAIN_SHARE = 0.3


@dataclass(frozen=True)
class Split:
    """Disjoint sets of entities.

    Attributes:
        train: shown in the learning task.
        validation: to choose settings by.
        test: for the final measure.
    """

    train: frozenset[str]
    validation: frozenset[str]
    test: frozenset[str]


def split(strata: Iterable[Sequence[str]], train_share: float) -> Split:
    """The same shares of every stratum: from the front those to train on, from the end half for the test, before
    these a fifth for validation.

    Hence test and validation do not depend on `train_share`, and a larger share contains a smaller one.

    Args:
        strata: entities in the order in which they are taken.
        train_share: share of all entities that is shown, at most 0.3; at least one entity of every stratum is.
    """
    train: set[str] = set()
    validation: set[str] = set()
    test: set[str] = set()
    for entities in strata:
        tested = round(TEST_SHARE * len(entities))
        validated = round(VALIDATION_SHARE * len(entities))
        rest = len(entities) - tested - validated
        train.update(entities[: max(1, min(rest, round(train_share * len(entities))))])
        validation.update(entities[rest : rest + validated])
        test.update(entities[rest + validated :])
    return Split(frozenset(train), frozenset(validation), frozenset(test))


def strata(values: Mapping[str, str], order: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Entities of each value, the values in `order`, the entities of each as they are given."""
    return tuple(tuple(entity for entity, value in values.items() if value == wanted) for wanted in order)
