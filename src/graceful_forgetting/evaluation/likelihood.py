"""Log-likelihood of given completions, row by row: what every likelihood metric is made from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.data import IGNORE_INDEX, collate, require_pad_token, tokenize_dataset
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, token_losses
from graceful_forgetting.runtime.progress import progress_part


@dataclass(frozen=True)
class CompletionLikelihood:
    """How likely a model finds one completion after its prompt.

    Attributes:
        nats: negative log-likelihood of all its tokens, the closing EOS token included.
        end_nats: of that EOS token alone; 0 for conversations, which the chat template ends.
        tokens: number of tokens, EOS included.
        bytes: length of the completion's text in UTF-8.
    """

    nats: float
    end_nats: float
    tokens: int
    bytes: int

    @property
    def log_likelihood(self) -> float:
        """Of the text alone, without the end (nats, at most 0)."""
        return self.end_nats - self.nats


def completion_likelihoods(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    rows: Dataset,
    batch_size: int,
    description: str = "likelihood",
) -> list[CompletionLikelihood]:
    """The likelihood of every row's `completion` after its `prompt`, in the order of the rows.

    Raises:
        ValueError: a row without tokens that count, or a log-likelihood that is not finite.
    """
    tokenised = tokenised_completions(rows, processing_class)
    return tokenised_likelihoods(model, processing_class, tokenised, batch_size, description)


def tokenised_completions(rows: Dataset, processing_class: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Rows with `prompt` and `completion` as `tokenised_likelihoods` reads them."""
    tokenised: list[dict[str, Any]] = tokenize_dataset(rows, processing_class, argument="evaluation rows").to_list()
    return tokenised


def tokenised_likelihoods(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    tokenised: Sequence[dict[str, Any]],
    batch_size: int,
    description: str = "likelihood",
) -> list[CompletionLikelihood]:
    """`completion_likelihoods` of rows that are tokenised already.

    Rows of similar length share a batch, padded on the right whatever the tokenizer says, and logits are computed at
    the completions' positions alone.
    """
    pad_token_id = require_pad_token(processing_class)
    order = sorted(range(len(tokenised)), key=lambda index: -len(tokenised[index]["input_ids"]))
    found: dict[int, CompletionLikelihood] = {}
    training = model.training
    model.eval()
    try:
        with progress_part(description, "answers", len(tokenised)) as progress:
            for start in range(0, len(tokenised), batch_size):
                chosen = order[start : start + batch_size]
                nats = _token_nats(model, [tokenised[index] for index in chosen], pad_token_id)
                for index, row_nats in zip(chosen, nats, strict=True):
                    where = f"{description}: row {index}"
                    found[index] = _likelihood(tokenised[index], row_nats, processing_class.eos_token_id, where)
                progress.update(len(chosen))
    finally:
        model.train(training)
    return [found[index] for index in range(len(tokenised))]


def _likelihood(row: Any, nats: list[float], eos_token_id: int | None, where: str) -> CompletionLikelihood:
    ends = isinstance(row["completion"], str) and row["labels"][-1] == eos_token_id
    total = math.fsum(nats)
    if not math.isfinite(total):
        raise ValueError(
            f"{where} has log-likelihood {-total}: the model's logits are not finite; check its weights and dtype"
        )
    return CompletionLikelihood(
        nats=total,
        end_nats=nats[-1] if ends else 0.0,
        tokens=len(nats),
        bytes=len(completion_text(row["completion"]).encode()),
    )


@torch.no_grad()
def _token_nats(model: Any, rows: Sequence[Any], pad_token_id: int) -> list[list[float]]:
    """Negative log-likelihood of every counted token of every row, in order."""
    batch = collate(rows, pad_token_id, model.device)
    positions, targets = counted_targets(batch)
    logits = counted_logits(model, batch, positions)
    counts = (targets != IGNORE_INDEX).sum(dim=1).tolist()
    return [part.tolist() for part in token_losses(logits, targets).split(counts)]


def completion_text(completion: str | Sequence[dict[str, Any]]) -> str:
    """The text of a completion, joined over its turns where it is a conversation."""
    return completion if isinstance(completion, str) else "".join(turn["content"] for turn in completion)


def text_bits_per_byte(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    text: str,
    *,
    window: int,
    batch_size: int,
) -> float:
    """Bits per UTF-8 byte of a text, cut into windows of `window` tokens that are each read alone.

    Each window follows the BOS token, or the EOS token where there is none, so that its first token counts as well.

    Raises:
        ValueError: an empty text, or a tokenizer without both tokens.
    """
    prefix = processing_class.bos_token_id
    if prefix is None:
        prefix = processing_class.eos_token_id
    # The text is longer than a context of the model on purpose, and cut below: no warning.
    ids = processing_class(text=text, add_special_tokens=False, verbose=False)["input_ids"]
    if prefix is None or not ids:
        raise ValueError("neutral_text needs text that is not empty, and a tokenizer with a BOS or EOS token")
    size = window - 1
    rows = [{"input_ids": [prefix, *ids[start : start + size]]} for start in range(0, len(ids), size)]
    for row in rows:
        row["labels"] = [IGNORE_INDEX, *row["input_ids"][1:]]
    training = model.training
    model.eval()
    try:
        nats = math.fsum(
            nat
            for start in range(0, len(rows), batch_size)
            for row_nats in _token_nats(model, rows[start : start + batch_size], require_pad_token(processing_class))
            for nat in row_nats
        )
    finally:
        model.train(training)
    return nats / math.log(2) / len(text.encode())
