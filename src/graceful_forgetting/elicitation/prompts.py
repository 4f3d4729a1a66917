"""The prompts: what they must look like, and their tokens."""

import logging
from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from graceful_forgetting.data.encoding import RefusedRowError, encode_prompts, encode_rows, encoded_parts
from graceful_forgetting.runtime.compact import TokenLists

logger = logging.getLogger(__name__)

ADDED_COLUMNS = ("completion_tokens", "mean_log_probability", "finish_reason", "input_ids", "labels")


def tokenize_prompts(
    prompts: Dataset, tokenizer: PreTrainedTokenizerBase, folder: str | Path | None = None
) -> TokenLists:
    """Token ids of each row's `prompt`: a string, or a list of messages with the generation prompt added.

    They lie in `folder`, or in memory where there is none.

    Raises:
        TypeError: `prompts` is not a `datasets.Dataset`.
        ValueError: no rows, no column `prompt`, columns that elicitation adds, a prompt that is empty or neither a
            string nor a list of messages, or messages where the tokenizer has no chat template or it refuses them.
    """
    if not isinstance(prompts, Dataset):
        raise TypeError(f"prompts must be a datasets.Dataset, not {type(prompts).__name__}")
    columns = ", ".join(prompts.column_names) or "none"
    if "prompt" not in prompts.column_names:
        raise ValueError(f"prompts needs a column `prompt`; its columns: {columns}")
    if len(prompts) == 0:
        raise ValueError("prompts has no rows: elicitation needs at least one prompt")
    if "completion" in prompts.column_names:
        raise ValueError(
            "prompts has a column `completion`: given answers need no elicitation; score them as they are, "
            'or prompts.remove_columns("completion") to let the model answer instead'
        )
    taken = [name for name in ADDED_COLUMNS if name in prompts.column_names]
    if taken:
        raise ValueError(
            f"prompts already has columns that elicitation adds: {', '.join(taken)}; remove or rename them"
        )
    blank: dict[int, str] = {}
    for index, value in enumerate(prompts.with_format(None)["prompt"]):
        if not value or not isinstance(value, str | list):
            raise ValueError(
                f"prompts: row {index} has prompt {value!r}; it must be a string or a list of messages, not empty"
            )
        if isinstance(value, str) and value != value.rstrip():
            blank[index] = value
    found = TokenLists(folder=folder)
    try:
        for part in encoded_parts(prompts, "tokenising prompts", lambda rows: encode_prompts(rows, tokenizer)):
            found.extend(part)
    except RefusedRowError as error:
        raise ValueError(f"prompts: row {error.position} {error}") from error
    _warn_of_blank_ends(blank, len(prompts), tokenizer)
    for index, tokens in enumerate(found):
        if not tokens:
            prompt = prompts.with_format(None)[index]["prompt"]
            raise ValueError(f"prompts: row {index} has no tokens (prompt {prompt!r}); remove it")
    return found


def _warn_of_blank_ends(blank: Mapping[int, str], total: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say where white space at the end of a prompt makes other tokens than before a word.

    A model has hardly met such tokens at the end of a text, and goes on with white space, a number or nothing.
    """
    rows = [{"prompt": prompt, "completion": "a"} for prompt in blank.values()]
    if not rows or tokenizer.eos_token is None:
        return
    bad = [index for index, row in zip(blank, encode_rows(rows, "prompt", tokenizer), strict=True) if row.misfit]
    if bad:
        logger.warning(
            "%d of %d prompts end in white space that makes other tokens when an answer follows (the first: row %d, "
            "%r): the model is asked in an unusual way, and may answer nothing. End these prompts before it.",
            len(bad),
            total,
            bad[0],
            blank[bad[0]][-20:],
        )
