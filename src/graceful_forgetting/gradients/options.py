"""The loss of an answer that was chosen among options: −log of its share of their probability.

The share does not hang on what a model thinks of the format of an answer, which is the same for all options: learning
to answer with one word makes every label likelier, the wrong ones too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from graceful_forgetting.data import IGNORE_INDEX, OTHER_OPTIONS
from graceful_forgetting.data.options import place_of_choice
from graceful_forgetting.gradients.rows import padded
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, mean_losses

Row = Mapping[str, Any]


def cut_at_choice(rows: Sequence[Row]) -> tuple[list[Row], list[list[int]]]:
    """Rows whose options differ in one token, up to that token, which alone counts; others as they are.

    The second is of each row that token of its answer and of its other options, and empty where options differ in more
    or there are none.

    Args:
        rows: tokenised (`input_ids`, `labels`), perhaps with `other_options`, lists of tokens that follow the prompt.
    """
    found: list[Row] = []
    tokens: list[list[int]] = []
    for row in rows:
        options = row.get(OTHER_OPTIONS) or ()
        start = _start(row) if options else 0
        answers = [row["input_ids"][start:], *options]
        place = place_of_choice(answers) if options else None
        if place is None:
            found.append(row)
            tokens.append([])
        else:
            ids = row["input_ids"][: start + place + 1]
            found.append({"input_ids": ids, "labels": [IGNORE_INDEX] * (start + place) + ids[-1:]})
            tokens.append([answer[place] for answer in answers])
    return found, tokens


def with_other_options(rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """The rows, then one for each other option of theirs; and of these the place of the row that they belong to.

    They are cut as by `cut_at_choice`, which see for `rows`.
    """
    cut, tokens = cut_at_choice(rows)
    others: list[Row] = []
    places: list[int] = []
    for place, (row, short, own) in enumerate(zip(rows, cut, tokens, strict=True)):
        before = len(others)
        if own:
            others += [_answered(short, len(short["input_ids"]) - 1, [token]) for token in own[1:]]
        elif options := row.get(OTHER_OPTIONS):
            others += [_answered(row, _start(row), option) for option in options]
        places += [place] * (len(others) - before)
    return [*cut, *others], places


def _start(row: Row) -> int:
    return next(index for index, label in enumerate(row["labels"]) if label != IGNORE_INDEX)


def _answered(row: Row, start: int, answer: Sequence[int]) -> Row:
    """The row with another answer from `start` on."""
    return {"input_ids": [*row["input_ids"][:start], *answer], "labels": [IGNORE_INDEX] * start + list(answer)}


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


def log_shares_of_tokens(model: nn.Module, batch: Mapping[str, Tensor], tokens: Sequence[Sequence[int]]) -> Tensor:
    """log(p(x) / Σ p(option)), (rows,) float32, differentiable, from one forward pass that reads each prompt once.

    Args:
        model: a causal language model, perhaps wrapped for training on several devices.
        batch: collated rows of `cut_at_choice`.
        tokens: from there, none empty.
    """
    positions, targets = counted_targets(batch)
    logits = counted_logits(model, batch, positions)
    most = max(map(len, tokens))
    where = torch.tensor([[*own, *[own[0]] * (most - len(own))] for own in tokens], device=logits.device)
    filled = torch.tensor([[index >= len(own) for index in range(most)] for own in tokens], device=logits.device)
    row = torch.arange(len(tokens), device=logits.device).unsqueeze(1)
    position = (targets != IGNORE_INDEX).int().argmax(dim=1, keepdim=True)
    return logits[row, position, where].float().masked_fill(filled, -torch.inf).log_softmax(dim=1)[:, 0]


def sample_losses(model: nn.Module, rows: Dataset, indices: Sequence[int], device: torch.device) -> Tensor:
    """L(x) of rows of a data set, (len(indices),) float32.

    Where a row has other options, −log of its answer's share of their probability; else the mean over its tokens.
    Takes one forward pass, and one more where some of the rows are cut at their choice and others are not.
    """
    cut, tokens = cut_at_choice([rows[index] for index in indices])
    once = [place for place, own in enumerate(tokens) if own]
    if len(once) == len(cut):
        return -log_shares_of_tokens(model, padded(cut, device), tokens)
    if once:
        rest = [place for place, own in enumerate(tokens) if not own]
        parts = [sample_losses(model, rows, [indices[place] for place in part], device) for part in (once, rest)]
        return torch.cat(parts)[torch.tensor([*once, *rest], device=device).argsort()]
    expanded, places = with_other_options([rows[index] for index in indices])
    batch = padded(expanded, device)
    losses = mean_losses(model, batch)
    if not places:
        return losses
    lengths = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(dim=1)
    shares, chosen = log_shares(-losses * lengths, places)
    return torch.where(chosen, -shares, losses[: len(indices)])


def most_readings(rows: Dataset) -> int:
    """How often `sample_losses` reads a prompt at most: once, or with each of its options."""
    if OTHER_OPTIONS not in rows.column_names:
        return 1
    return max((1 + len(row[OTHER_OPTIONS] or ()) for row in rows if not cut_at_choice([row])[1][0]), default=1)
