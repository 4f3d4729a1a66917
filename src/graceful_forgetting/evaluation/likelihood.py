"""Log-likelihood of given completions, row by row: what every likelihood metric is made from."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.data import (
    IGNORE_INDEX,
    AnswerReader,
    answer_ends,
    completion_text,
    require_pad_token,
)
from graceful_forgetting.data.encoding import EncodedRow, encode_rows
from graceful_forgetting.gradients.shared_prompts import completion_nats, prompt_of
from graceful_forgetting.runtime.batches import BatchLimit
from graceful_forgetting.runtime.progress import progress_part


@dataclass(frozen=True)
class CompletionLikelihood:
    """How likely a model finds one completion after its prompt.

    Attributes:
        nats: negative log-likelihood of all its tokens, its end included.
        end_nats: of that end alone: the EOS token, or what the chat template ends the turn with.
        tokens: number of tokens, the end included.
        bytes: length of the completion's text in UTF-8, without an end that is written out in it.
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
    return [options[0] for options in tokenised_options([[row] for row in rows.to_list()], processing_class)]


def tokenised_options(
    options: Sequence[Sequence[Mapping[str, Any]]],
    processing_class: PreTrainedTokenizerBase,
    encoded: Sequence[EncodedRow] | None = None,
) -> list[list[dict[str, Any]]]:
    """Several completions of each prompt as `tokenised_likelihoods` reads them.

    Those of one prompt count from where the first of them parts from the prompt, so that their likelihoods are of the
    same text: a white space at the end of the prompt belongs to the token ' four', and is one of its own before '4'.

    Args:
        options: of each row, pairs of `prompt` and `completion`.
        processing_class: the tokenizer.
        encoded: all pairs as tokens, where they are known.
    """
    pairs = [pair for own in options for pair in own]
    encoded = encode_rows(pairs, "prompt", processing_class) if encoded is None else encoded
    ends = answer_ends(processing_class, pairs[:1], encoded)
    reader = AnswerReader(processing_class, ends)
    flat = iter(zip(pairs, encoded, strict=True))
    found = []
    for own in options:
        chosen = [next(flat) for _ in own]
        start = min(row.start for _, row in chosen)
        found.append([_tokenised(pair["completion"], row, start, ends, reader) for pair, row in chosen])
    return found


def _tokenised(
    completion: Any, row: EncodedRow, start: int, ends: Collection[int], reader: AnswerReader
) -> dict[str, Any]:
    answer = row.ids[start:]
    end = next((place for place, token in enumerate(answer) if token in ends), len(answer))
    return {
        "input_ids": row.ids,
        "labels": [IGNORE_INDEX] * start + answer,
        "end_tokens": len(answer) - end,
        "bytes": len(reader.without_end(completion_text(completion)).encode()),
    }


def tokenised_likelihoods(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    tokenised: Sequence[dict[str, Any]],
    batch_size: int,
    description: str = "likelihood",
) -> list[CompletionLikelihood]:
    """`completion_likelihoods` of rows that are tokenised already.

    Rows of similar length share a batch, neighbours with the same prompt where they can. The prompt is read once then.
    Logits are computed at the completions' positions alone.
    """
    pad_token_id = require_pad_token(processing_class)
    limit = BatchLimit("Evaluation", batch_size)
    order = _order(tokenised)
    found: dict[int, CompletionLikelihood] = {}
    training = model.training
    model.eval()
    try:
        with progress_part(description, "answers", len(tokenised)) as progress:
            for start in range(0, len(tokenised), batch_size):
                chosen = order[start : start + batch_size]
                rows = [tokenised[index] for index in chosen]
                parts = limit.in_parts(rows, lambda part: completion_nats(model, part, pad_token_id))
                for index, row_nats in zip(chosen, chain.from_iterable(parts), strict=True):
                    where = f"{description}: row {index}"
                    found[index] = _likelihood(tokenised[index], row_nats, where)
                progress.update(len(chosen))
    finally:
        model.train(training)
    return [found[index] for index in range(len(tokenised))]


def _order(tokenised: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of rows, the longest first; neighbours with the same prompt stay side by side."""
    groups: list[list[int]] = []
    for index, row in enumerate(tokenised):
        if index and prompt_of(row) == prompt_of(tokenised[index - 1]):
            groups[-1].append(index)
        else:
            groups.append([index])
    groups.sort(key=lambda own: -max(len(tokenised[index]["input_ids"]) for index in own))
    return list(chain.from_iterable(groups))


def _likelihood(row: Any, nats: list[float], where: str) -> CompletionLikelihood:
    total = math.fsum(nats)
    if not math.isfinite(total):
        raise ValueError(
            f"{where} has log-likelihood {-total}: the model's logits are not finite; check its weights and dtype"
        )
    return CompletionLikelihood(
        nats=total,
        end_nats=math.fsum(nats[len(nats) - row["end_tokens"] :]),
        tokens=len(nats),
        bytes=row["bytes"],
    )


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
    limit, pad_token_id = BatchLimit("Evaluation", batch_size), require_pad_token(processing_class)
    training = model.training
    model.eval()
    try:
        nats = math.fsum(
            nat
            for part in limit.in_parts(rows, lambda part: completion_nats(model, part, pad_token_id))
            for row_nats in part
            for nat in row_nats
        )
    finally:
        model.train(training)
    return nats / math.log(2) / len(text.encode())
