"""The prompts: what they must look like, and their tokens."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from graceful_forgetting.data.encoding import RefusedRowError, encode_prompts

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
        ids = encode_prompts(list(prompts.with_format(None)), tokenizer)
    except RefusedRowError as error:
        raise ValueError(f"prompts: row {error.position} {error}") from error
    for index, tokens in enumerate(ids):
        if not tokens:
            raise ValueError(f"prompts: row {index} has no tokens (prompt {values[index]!r}); remove it")
    return ids
