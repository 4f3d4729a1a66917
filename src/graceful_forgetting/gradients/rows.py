"""Checks of a tokenised data set before any long work, and its batches."""

import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.data import IGNORE_INDEX, OTHER_OPTIONS, collate, tokenize_dataset

logger = logging.getLogger(__name__)


def tokenised_rows(dataset: Dataset, processing_class: PreTrainedTokenizerBase | None, *, argument: str) -> Dataset:
    """`dataset` with `input_ids`, `labels` and, where it has them, `other_options`, and no other columns.

    Raises `ValueError` for a packed data set, whose rows are no single samples, and what
    `graceful_forgetting.data.tokenize_dataset` raises.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"{argument} must be a datasets.Dataset, not {type(dataset).__name__}")
    packed = [name for name in ("seq_lengths", "position_ids") if name in dataset.column_names]
    if packed:
        raise ValueError(
            f"{argument} is packed (column {packed[0]}): its rows hold several samples, and "
            "gradients and scores are per sample; prepare it with packing=False"
        )
    if not {"input_ids", "labels"} <= set(dataset.column_names):
        dataset = tokenize_dataset(dataset, processing_class, argument=argument)
    optional = [OTHER_OPTIONS] if OTHER_OPTIONS in dataset.column_names else []
    return dataset.with_format(None).select_columns(["input_ids", "labels", *optional])


class RowLengths(Mapping[int, int]):
    """Index and length of the rows in which a token counts: 4 bytes a row, where a dictionary takes a hundred."""

    def __init__(self, lengths: Iterable[int]):
        """`lengths` of all rows; 0 where no token counts."""
        self._lengths = array("i", lengths)

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self._lengths) or not self._lengths[index]:
            raise KeyError(index)
        return self._lengths[index]

    def __iter__(self) -> Iterator[int]:
        return (index for index, length in enumerate(self._lengths) if length)

    def __len__(self) -> int:
        return len(self._lengths) - self._lengths.count(0)

    def longest_first(self) -> "array[int]":
        """The indices, those of equal length in their order."""
        lengths = numpy.array(self._lengths)
        order = (-lengths).argsort(kind="stable")[: len(self)]
        return array("q", order.astype(numpy.int64).tobytes())


def usable_rows(rows: Dataset, model: PreTrainedModel, *, argument: str) -> RowLengths:
    """Index and length of every row in which a token counts; the others are counted in a warning.

    Raises:
        ValueError: no rows; no usable rows; labels of another length than the ids; a row that is longer
            than the model's context; a token id that the model has no embedding for.
    """
    if len(rows) == 0:
        raise ValueError(f"{argument} has no rows")
    config = model.config.get_text_config()
    # Models without learned or rotary positions have no such limit.
    limit = getattr(config, "max_position_embeddings", None)
    vocabulary = config.vocab_size
    found = array("i")
    for index, row in enumerate(rows):
        ids, labels = row["input_ids"], row["labels"]
        if len(ids) != len(labels):
            raise ValueError(f"{argument}: row {index} has {len(ids)} input_ids but {len(labels)} labels; pair them")
        if limit is not None and len(ids) > limit:
            raise ValueError(
                f"{argument}: row {index} has {len(ids)} tokens, more than the model's context of {limit} "
                "(max_position_embeddings); shorten or remove it"
            )
        if ids and (min(ids) < 0 or max(ids) >= vocabulary):
            raise ValueError(
                f"{argument}: row {index} has a token id outside the model's vocabulary, 0 to "
                f"{vocabulary - 1}; tokenise with the model's own tokenizer"
            )
        found.append(len(ids) if any(label != IGNORE_INDEX for label in labels[1:]) else 0)
    lengths = RowLengths(found)
    if not lengths:
        raise ValueError(f"{argument}: no row has a token that counts (all labels are {IGNORE_INDEX})")
    if len(lengths) < len(rows):
        logger.warning(
            "%s: %d of %d rows have no token that counts; they are left out",
            argument,
            len(rows) - len(lengths),
            len(rows),
        )
    return lengths


def batches(lengths: RowLengths, batch_size: int) -> list[Sequence[int]]:
    """Row indices in batches of similar length, longest first: memory runs out early or never."""
    order = lengths.longest_first()
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def load_batch(rows: Dataset, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    """Right-padded `input_ids`, `attention_mask`, `labels` of the rows, each (batch, longest row)."""
    return padded([rows[index] for index in indices], device)


def padded(rows: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Tensor]:
    """As `load_batch`, of rows at hand. They are masked, so what stands in the padding does not matter."""
    return collate(rows, 0, device)
