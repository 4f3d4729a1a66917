"""From text to counted tokens: the one form of data that every stage computes on.

A *tokenised* data set has the columns `input_ids` and `labels`, lists of equal length. The token at position
t counts towards L(x) if `labels[t] != -100`; it is predicted from the tokens before t, so `labels[0]` never
counts. L(x) is the mean negative log-likelihood (natural logarithm) over the counted tokens of one sample.

Token ids and labels are those that TRL's `SFTTrainer` trains on by default, so that a sample's score and its
training loss speak of the same tokens.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase
from trl import get_training_chat_template

from graceful_forgetting.data.encoding import EncodedRow, RefusedRowError, encode_prompts, encode_rows
from graceful_forgetting.runtime.internals import marks_assistant
from graceful_forgetting.runtime.progress import DELAY, advance, joint_progress, without_bars_of_libraries

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100
# Column with the tokens of the options that were not the answer, each what would follow the prompt.
OTHER_OPTIONS = "other_options"
# Rows that are tokenised together.
_BATCH = 1000

_ACCEPTED = (
    "`prompt` + `completion` (both strings or both lists of messages), `messages`, `conversations`, "
    "`text`, or tokenised: `input_ids`, with `labels` or masks (`completion_mask`, `assistant_masks`)"
)
_MASKS = ("completion_mask", "assistant_masks")


def tokenize_dataset(
    dataset: Dataset,
    processing_class: PreTrainedTokenizerBase | None = None,
    *,
    max_length: int | None = None,
    argument: str = "dataset",
    assistant_only: bool = False,
    chat_template: str | None = None,
    place: Callable[[int], str] | None = None,
) -> Dataset:
    """Add `input_ids` and `labels` to a data set of any SFT type; other columns are kept.

    - `prompt` + `completion`: the completion counts. Strings get the EOS token appended; lists of messages go
      through the chat template. `tools` and `chat_template_kwargs` columns reach the template, as in TRL.
      The tokens of the prompt alone must be how the row begins, since answers are generated from them.
    - `messages` or `conversations` (chat template), `text` (EOS appended): every token counts.
    - `input_ids` + `labels`: returned as they are. `input_ids` + masks: a token counts where all masks are 1;
      the mask columns are removed. (TRL reads a `completion_mask` only with `completion_only_loss=True`.)
      `input_ids` alone: every token counts.

    Args:
        dataset: rows of one of these types.
        processing_class: tokenizer; may be None where the data set is already tokenised.
        max_length: longest row allowed, in tokens. Nothing is ever truncated.
        argument: name of the data set in error messages.
        assistant_only: of messages, the assistant's tokens alone count, as with TRL's `assistant_only_loss`.
        chat_template: in place of the tokenizer's own, see `assistant_template`.
        place: what an error calls the row with this number; none: `argument` and the number.

    Raises:
        TypeError: `dataset` is not a `datasets.Dataset`, or `processing_class` is not a tokenizer.
        ValueError: no rows; columns of no accepted type or of two; packed rows; a missing tokenizer, EOS
            token or chat template; a row that the template refuses, whose prompt has other tokens once its
            completion follows, or in whose completion others speak than the assistant (but with `assistant_only`);
            a row that is longer than `max_length`, or in which no token counts.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"{argument} must be a datasets.Dataset, not {type(dataset).__name__}")
    columns = dataset.column_names
    if len(dataset) == 0:
        raise ValueError(f"{argument} has no rows (columns: {_listed(columns)})")
    if dataset.format["type"] == "custom":
        raise ValueError(f"{argument} uses with_transform(); materialise the transform with map() first")
    if "seq_lengths" in columns:
        raise ValueError(
            f"{argument} is packed (it has a `seq_lengths` column): rows are then no longer single samples, "
            "and losses and scores are per sample; prepare it with packing=False"
        )
    place = place or (lambda index: f"{argument}: row {index}")
    dataset = dataset.with_format(None)
    if "input_ids" in columns:
        dataset = _label_tokenized(dataset)
    else:
        kind = _data_type(columns, argument)
        dataset = _tokenize(dataset, kind, processing_class, argument, assistant_only, chat_template, place)
    _check_rows(dataset, max_length, place)
    return dataset


def labelled(encoded: Sequence[EncodedRow], place: Callable[[int], str]) -> Dataset:
    """`input_ids` and `labels` as `tokenize_dataset` makes them, and as it raises, of rows that are encoded already."""
    for index, row in enumerate(encoded):
        if row.misfit is not None:
            raise ValueError(f"{place(index)} cannot be learned: {row.misfit}")
    rows = Dataset.from_dict({"input_ids": [row.ids for row in encoded], "labels": [_labels(row) for row in encoded]})
    _check_rows(rows, None, place)
    return rows


def tokenize_prompt(
    row: Mapping[str, Any], processing_class: PreTrainedTokenizerBase, chat_template: str | None = None
) -> list[int]:
    """Token ids of `row["prompt"]` awaiting its completion, see `encode_prompts`."""
    return encode_prompts([row], processing_class, chat_template)[0]


def assistant_template(processing_class: PreTrainedTokenizerBase) -> str | None:
    """The chat template that marks what the assistant says, where the tokenizer's own does not; else None.

    As in `SFTTrainer`, TRL's patched version of a known template. Raises `ValueError` for one that it does not know.
    """
    if processing_class.chat_template is None or marks_assistant(processing_class.chat_template):
        return None
    template: str | None = get_training_chat_template(processing_class)
    return template


def collate(
    rows: Sequence[Mapping[str, Any]], pad_token_id: int, device: torch.device | str | None = None
) -> dict[str, Tensor]:
    """Right-padded batch of tokenised rows.

    Returns:
        `input_ids`, `attention_mask`, `labels`: int64 tensors of shape (batch, longest row); padding has
        `pad_token_id`, 0 and -100.

    Raises:
        ValueError: no rows, or a row in which no token counts (its mean loss would be 0/0).
    """
    if not rows:
        raise ValueError("rows is empty: a batch needs at least one row")
    for position, row in enumerate(rows):
        if not _counts(row["labels"]):
            raise ValueError(f"row {position} of the batch has no token that counts: all its labels are -100")
    shape = (len(rows), max(len(row["input_ids"]) for row in rows))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
    for position, row in enumerate(rows):
        length = len(row["input_ids"])
        input_ids[position, :length] = torch.as_tensor(row["input_ids"])
        attention_mask[position, :length] = 1
        labels[position, :length] = torch.as_tensor(row["labels"])
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    return {name: tensor.to(device) for name, tensor in batch.items()} if device is not None else batch


def context_length(config: PretrainedConfig) -> int | None:
    """Tokens that a model's context holds, from its configuration; None where nothing there limits it (relative
    positions such as ALiBi, state-space models).
    """
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def require_pad_token(processing_class: PreTrainedTokenizerBase) -> int:
    """Id of the padding token; the EOS token stands in where there is none, as in TRL's `SFTTrainer`.

    The tokenizer is not changed. Raises `ValueError` where it has neither token.
    """
    if processing_class.pad_token_id is not None:
        return int(processing_class.pad_token_id)
    if processing_class.eos_token_id is None:
        raise ValueError(
            "processing_class has no pad token and no EOS token to stand in for it; set one, for example "
            'tokenizer.add_special_tokens({"pad_token": "<pad>"}) (and resize the model\'s embeddings)'
        )
    logger.info("The tokenizer has no pad token: its EOS token %r is used.", processing_class.eos_token)
    return int(processing_class.eos_token_id)


def require_tokenizer(processing_class: object, argument: str) -> PreTrainedTokenizerBase:
    """`processing_class`, checked; `argument` names the text that needs it.

    Raises `ValueError` for None and `TypeError` for anything that is not a tokenizer.
    """
    if processing_class is None:
        raise ValueError(
            f"{argument} is text, and processing_class is None: pass the model's tokenizer (only data with "
            "`input_ids` and `labels` need none)"
        )
    if not isinstance(processing_class, PreTrainedTokenizerBase):
        raise TypeError(
            f"processing_class must be a tokenizer, not {type(processing_class).__name__}; for a processor "
            "pass its `.tokenizer`"
        )
    return processing_class


def _data_type(columns: Sequence[str], argument: str) -> str:
    """The one SFT type that the columns form: 'prompt', 'messages', 'conversations' or 'text'."""
    present = [name for name in ("prompt", "messages", "conversations", "text") if name in columns]
    if len(present) > 1:
        # TRL would append the EOS token to one and tokenise the other, or choose by hash order.
        raise ValueError(
            f"{argument} has columns of more than one type: {_listed(present)}; keep one, for example "
            f'dataset.remove_columns("{present[-1]}")'
        )
    if present == ["prompt"] and "completion" not in columns:
        raise ValueError(
            f"{argument} has a column `prompt` and no `completion` (columns: {_listed(columns)}); the "
            "model's own completions come from elicit_self_knowledge"
        )
    if not present:
        raise ValueError(
            f"{argument} has none of the accepted sets of columns. Needed: {_ACCEPTED}. There are: {_listed(columns)}"
        )
    return present[0]


def _tokenize(
    dataset: Dataset,
    kind: str,
    processing_class: object,
    argument: str,
    assistant_only: bool,
    chat_template: str | None,
    place: Callable[[int], str],
) -> Dataset:
    tokenizer = require_tokenizer(processing_class, argument)
    first = dataset[0]
    if kind == "prompt" and isinstance(first["prompt"], str) != isinstance(first["completion"], str):
        raise ValueError(
            f"{argument}: `prompt` is a {type(first['prompt']).__name__} and `completion` a "
            f"{type(first['completion']).__name__}; both must be strings, or both lists of messages"
        )
    conversational = not isinstance(first["completion" if kind == "prompt" else kind], str)

    parts = ("prompt", "completion") if kind == "prompt" else (kind,)

    def ids_and_labels(columns: dict[str, list[Any]], indices: list[int]) -> dict[str, list[list[int]]]:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for index, row in zip(indices, rows, strict=True):
            if any(not row[name] if conversational else not isinstance(row[name], str) for name in parts):
                raise RefusedRowError(f"has an empty or missing value in its {kind} columns", index)
        only = assistant_only and conversational
        try:
            encoded = encode_rows(rows, kind, tokenizer, assistant_only=only, chat_template=chat_template)
        except RefusedRowError as error:
            raise RefusedRowError(str(error), indices[error.position]) from error
        for index, own in zip(indices, encoded, strict=True):
            if own.misfit is not None:
                raise RefusedRowError(f"cannot be learned: {own.misfit}", index)
        advance(len(rows))
        return {"input_ids": [row.ids for row in encoded], "labels": [_labels(row) for row in encoded]}

    try:
        with joint_progress(f"tokenising {argument}", "rows", len(dataset), delay=DELAY), without_bars_of_libraries():
            return dataset.map(ids_and_labels, with_indices=True, batched=True, batch_size=_BATCH)
    except RefusedRowError as error:
        # Not in the function that is mapped, which is hashed with all that it refers to.
        raise ValueError(f"{place(error.position)} {error}") from error


def _labels(row: EncodedRow) -> list[int]:
    labels = row.ids
    if row.said is not None:
        labels = [token if own else IGNORE_INDEX for token, own in zip(row.ids, row.said, strict=True)]
    return [IGNORE_INDEX] * row.start + labels[row.start :]


def _label_tokenized(dataset: Dataset) -> Dataset:
    if "labels" in dataset.column_names:
        return dataset
    masks = [name for name in _MASKS if name in dataset.column_names]

    def labels(row: dict[str, Any]) -> dict[str, list[int]]:
        bits = zip(*(row[name] for name in masks), strict=True) if masks else ((1,) for _ in row["input_ids"])
        return {
            "labels": [token if all(kept) else IGNORE_INDEX for token, kept in zip(row["input_ids"], bits, strict=True)]
        }

    return dataset.map(labels, remove_columns=masks, desc="Building labels")


def _check_rows(dataset: Dataset, max_length: int | None, place: Callable[[int], str]) -> None:
    # A batch at a time: single rows take ten times as long to read.
    parts = dataset.select_columns(["input_ids", "labels"]).iter(batch_size=_BATCH)
    rows = (row for part in parts for row in zip(part["input_ids"], part["labels"], strict=True))
    for index, (ids, labels) in enumerate(rows):
        length = len(ids)
        if len(labels) != length:
            raise ValueError(f"{place(index)} has {length} input_ids but {len(labels)} labels; pair them")
        if max_length is not None and length > max_length:
            raise ValueError(
                f"{place(index)} has {length} tokens, more than max_length={max_length}; raise "
                "max_length (up to the model's context), or shorten or remove the row: nothing is truncated"
            )
        if not _counts(labels):
            raise ValueError(f"{place(index)} has no token that counts (of {length}); complete it or remove it")


def _counts(labels: Sequence[int]) -> bool:
    # The first token is predicted from nothing, so its label is never counted.
    return any(label != IGNORE_INDEX for label in labels[1:])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "none"
