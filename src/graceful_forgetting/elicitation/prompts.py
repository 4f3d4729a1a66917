"""The prompts: what they must look like, and their tokens."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from graceful_forgetting.data import tokenize_prompt

ADDED_COLUMNS = ("completion_tokens", "mean_log_probability", "finish_reason", "input_ids", "labels")


def tokenize_prompts(prompts: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each row's `prompt`: a string, or a list of messages with the generation prompt added.

    Raises:
        TypeError: `prompts` is not a `datasets.Dataset`.
        ValueError: no rows, no column `prompt`, columns that elicitation adds, a prompt that is empty or neither a
            string nor a list of messages, or messages where the tokenizer has no chat template.
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
    ids = []
    for index, row in enumerate(prompts.with_format(None)):
        if not row["prompt"] or not isinstance(row["prompt"], str | list):
            raise ValueError(
                f"prompts: row {index} has prompt {row['prompt']!r}; it must be a string or a list of "
                "messages, not empty"
            )
        ids.append(tokenize_prompt(row, tokenizer))
        if not ids[-1]:
            raise ValueError(f"prompts: row {index} has no tokens (prompt {row['prompt']!r}); remove it")
    return ids
