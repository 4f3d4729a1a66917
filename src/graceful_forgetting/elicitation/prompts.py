"""The prompts: what they must look like, and their tokens."""

import logging
from collections.abc import Sequence

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from graceful_forgetting.data.encoding import RefusedRowError, encode_prompts, encode_rows, encoded_in_parts

logger = logging.getLogger(__name__)

ADDED_COLUMNS = ("completion_tokens", "mean_log_probability", "finish_reason", "input_ids", "labels")


def tokenize_prompts(prompts: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each row's `prompt`: a string, or a list of messages with the generation prompt added.

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
    values = prompts.with_format(None)["prompt"][:]
    for index, value in enumerate(values):
        if not value or not isinstance(value, str | list):
            raise ValueError(
                f"prompts: row {index} has prompt {value!r}; it must be a string or a list of messages, not empty"
            )
    try:
        ids = encoded_in_parts(prompts, "tokenising prompts", lambda part: encode_prompts(part, tokenizer))
    except RefusedRowError as error:
        raise ValueError(f"prompts: row {error.position} {error}") from error
    # Equal ids are one object, in place of one a token.
    shared: dict[int, int] = {}
    ids = [[shared.setdefault(token, token) for token in own] for own in ids]
    _warn_of_blank_ends(values, tokenizer)
    for index, tokens in enumerate(ids):
        if not tokens:
            raise ValueError(f"prompts: row {index} has no tokens (prompt {values[index]!r}); remove it")
    return ids


def _warn_of_blank_ends(prompts: Sequence[str | list[dict[str, str]]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Say where white space at the end of a prompt makes other tokens than before a word.

    A model has hardly met such tokens at the end of a text, and goes on with white space, a number or nothing.
    """
    blank = [index for index, prompt in enumerate(prompts) if isinstance(prompt, str) and prompt != prompt.rstrip()]
    rows = [{"prompt": prompts[index], "completion": "a"} for index in blank]
    if not rows or tokenizer.eos_token is None:
        return
    bad = [index for index, row in zip(blank, encode_rows(rows, "prompt", tokenizer), strict=True) if row.misfit]
    if bad:
        logger.warning(
            "%d of %d prompts end in white space that makes other tokens when an answer follows (the first: row %d, "
            "%r): the model is asked in an unusual way, and may answer nothing. End these prompts before it.",
            len(bad),
            len(prompts),
            bad[0],
            str(prompts[bad[0]])[-20:],
        )
