"""The loss of an answer that was chosen among options: −log of its share of their probability.

The share does not hang on what a model thinks of the format of an answer, which is the same for all options: learning
to answer with one word makes every label likelier, the wrong ones too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from graceful_forgetting.data import IGNORE_INDEX, OTHER_OPTIONS
from graceful_forgetting.gradients.shared_prompts import completion_nats

Row = Mapping[str, Any]


def with_other_options(rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """The rows, then one for each other option of theirs; and of these the place of the row that they belong to.

    Args:
        rows: tokenised (`input_ids`, `labels`), perhaps with `other_options`, lists of tokens that follow the prompt.
    """
    others: list[Row] = []
    places: list[int] = []
    for place, row in enumerate(rows):
        options = row.get(OTHER_OPTIONS) or ()
        start = next(index for index, label in enumerate(row["labels"]) if label != IGNORE_INDEX) if options else 0
        for option in options:
            ids = [*row["input_ids"][:start], *option]
            others.append({"input_ids": ids, "labels": [IGNORE_INDEX] * start + list(option)})
            places.append(place)
    return [*rows, *others], places


def log_shares(log_likelihoods: Tensor, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log(p(x) / Σ p(option)), (rows,), 0 for rows without other options; and which have some, (rows,) bool.

    Args:
        log_likelihoods: log p of whole answers, in the order of `with_other_options`.
        places: from there.
    """
    number = len(log_likelihoods) - len(places)
    most = max((places.count(place) for place in set(places)), default=0)
    table = log_likelihoods.new_full((number, 1 + most), -torch.inf)
    columns = [1 + places[:index].count(place) for index, place in enumerate(places)]
    where = torch.tensor([*range(number), *places]), torch.tensor([0] * number + columns)
    table = table.index_put(tuple(index.to(table.device) for index in where), log_likelihoods)
    chosen = torch.zeros(number, dtype=torch.bool, device=table.device)
    chosen[torch.tensor(places, dtype=torch.long, device=table.device)] = True
    return table.log_softmax(dim=1)[:, 0], chosen


def sample_losses(model: nn.Module, rows: Dataset, indices: Sequence[int]) -> Tensor:
    """L(x) of rows of a data set, (len(indices),) float64 on the CPU, without gradients.

    Where a row has other options, −log of its answer's share of their probability; else the mean over its tokens.
    """
    expanded, places = with_other_options([rows[index] for index in indices])
    nats = completion_nats(model, expanded, 0)
    totals = torch.tensor([math.fsum(own) for own in nats], dtype=torch.float64)
    shares, chosen = log_shares(-totals, places)
    means = totals[: len(indices)] / torch.tensor([len(own) for own in nats[: len(indices)]])
    return torch.where(chosen, -shares, means)


def sample_token_losses(
    model: nn.Module, rows: Dataset, indices: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """−log p of each token that counts, without gradients, and which entries are such tokens.

    Where a row has other options, its answer is one token, whose p is its share of their probability.

    Returns:
        two tensors (len(indices), n), float32 and bool, n the most positions at which a row of them has tokens.
    """
    expanded, places = with_other_options([rows[index] for index in indices])
    nats = [torch.tensor(own, dtype=torch.float32) for own in completion_nats(model, expanded, 0)]
    totals = torch.tensor([math.fsum(own.tolist()) for own in nats])
    shares, chosen = log_shares(-totals, places)
    own = [-shares[index : index + 1] if chosen[index] else tokens for index, tokens in enumerate(nats[: len(indices)])]
    counted = [torch.ones_like(tokens, dtype=torch.bool) for tokens in own]
    return pad_sequence(own, batch_first=True).to(device), pad_sequence(counted, batch_first=True).to(device)


def most_options(rows: Dataset) -> int:
    """The largest number of answers that a row is read with: its own, and its other options."""
    if OTHER_OPTIONS not in rows.column_names:
        return 1
    return 1 + max((len(options or ()) for options in rows[OTHER_OPTIONS]), default=0)
