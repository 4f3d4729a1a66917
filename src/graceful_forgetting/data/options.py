"""Answers to choose from, as tokens: where they differ."""

from collections.abc import Sequence


def place_of_choice(options: Sequence[Sequence[int]]) -> int | None:
    """The place of the only token in which options differ, each from every other; None where there is no such place.

    All options are as likely up to that place, and what follows it is the same text. So the choice is made there, and
    one reading of the prompt knows the probability of each.

    Args:
        options: tokens that follow the prompt, perhaps with what ends them.
    """
    if len({len(option) for option in options}) != 1:
        return None
    differing = [place for place, tokens in enumerate(zip(*options, strict=True)) if len(set(tokens)) > 1]
    if len(differing) != 1 or len({option[differing[0]] for option in options}) < len(options):
        return None
    return differing[0]
