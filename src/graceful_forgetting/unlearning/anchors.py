"""Anchors: of a sample, the learning row with the same prompt, and the tokens from which on the two differ."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from graceful_forgetting.data import IGNORE_INDEX

Row = dict[str, Any]


def anchors_of(samples: Dataset, learning: Dataset) -> list[Row | None]:
    """Of each sample the learning row with the same prompt, the first where there are several; None without one.

    The prompt of a row is what stands before its first counted token.

    Args:
        samples, learning: tokenised rows (`input_ids`, `labels`).

    Raises:
        ValueError: no sample has an anchor.
    """
    first: dict[tuple[int, ...], Row] = {}
    for row in learning.select_columns(["input_ids", "labels"]):
        first.setdefault(_prompt(row), row)
    anchors = [first.get(_prompt(row)) for row in samples.select_columns(["input_ids", "labels"])]
    if len(anchors) > 0 and not any(anchors):
        raise ValueError(
            "unlearn_objective='contrast': no selected sample answers a prompt of the learning rows, so there is no "
            "right answer to hold one against. Name the learning task among forgetting_tasks too (in LWFTrainer: put "
            "prompts of train_dataset into forget_dataset), or use unlearn_objective='unlikelihood'"
        )
    return anchors


def from_first_difference(own: Sequence[Row], anchors: Sequence[Row | None], positions: int) -> tuple[Tensor, Tensor]:
    """Which next tokens are compared, of the samples and of their anchors: two (samples, positions) bool.

    These are the counted tokens from the first one where the two differ; where one answer is the beginning of the
    other, its last token, so that there is always something to compare. Nothing is compared where a sample has no
    anchor or equals it.
    """
    masks = torch.zeros(2, len(own), positions, dtype=torch.bool)
    for number, (row, anchor) in enumerate(zip(own, anchors, strict=True)):
        if anchor is None:
            continue
        counted, anchor_counted = _counted(row), _counted(anchor)
        answers = [row["input_ids"][i] for i in counted], [anchor["input_ids"][i] for i in anchor_counted]
        if answers[0] == answers[1]:
            continue
        shortest = min(len(counted), len(anchor_counted))
        same = next((i for i in range(shortest) if answers[0][i] != answers[1][i]), shortest - 1)
        for mask, places in zip(masks, (counted, anchor_counted), strict=True):
            # The logits at a position are about the token after it.
            mask[number, torch.tensor(places[same:]) - 1] = True
    return masks[0], masks[1]


def _counted(row: Row) -> list[int]:
    return [index for index, label in enumerate(row["labels"]) if label != IGNORE_INDEX and index > 0]


def _prompt(row: Row) -> tuple[int, ...]:
    return tuple(row["input_ids"][: next(iter(_counted(row)), len(row["labels"]))])
