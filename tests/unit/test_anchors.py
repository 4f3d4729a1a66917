"""Which learning row a sample is held against, and from which token on."""

import pytest
from datasets import Dataset

from graceful_forgetting.unlearning.anchors import anchors_of, from_first_difference


def row(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def test_an_anchor_is_the_first_learning_row_with_the_same_prompt() -> None:
    learning = Dataset.from_list([row([1, 2], [3, 9]), row([1, 2], [4, 9]), row([1], [2, 9])])
    samples = Dataset.from_list([row([1], [7, 9]), row([1, 2], [5, 9]), row([2, 1], [5, 9])])
    assert anchors_of(samples, learning) == [row([1], [2, 9]), row([1, 2], [3, 9]), None]


def test_samples_without_any_anchor_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(
        ValueError, match=r"unlearn_objective='contrast': .*Name the learning task among forgetting_tasks"
    ):
        anchors_of(Dataset.from_list([row([1], [2])]), Dataset.from_list([row([2], [2])]))


@pytest.mark.parametrize(
    ("own", "anchor", "compared"),
    [
        ([5, 6, 9], [5, 7, 8, 9], ([2, 3], [2, 3, 4])),
        ([5, 9], [5, 9], ([], [])),
        # Where one is the beginning of the other: from the last token of the shorter one.
        ([5, 6], [5, 6, 7], ([2], [2, 3])),
    ],
)
def test_tokens_are_compared_from_the_first_that_differs(
    own: list[int], anchor: list[int], compared: tuple[list[int], list[int]]
) -> None:
    # Two tokens of prompt: the logits at position i are about token i + 1.
    masks = from_first_difference([row([1, 2], own)], [row([1, 2], anchor)], positions=6)
    assert tuple(mask[0].nonzero().squeeze(1).tolist() for mask in masks) == compared


def test_nothing_is_compared_without_an_anchor() -> None:
    masks = from_first_difference([row([1], [2])], [None], positions=3)
    assert not masks[0].any()
    assert not masks[1].any()
