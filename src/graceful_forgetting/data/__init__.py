"""Text to token ids and labels, the one form of rows that every stage computes on.

Imports `config` and `runtime`.
"""

from graceful_forgetting.data.answers import AnswerReader, answer_ends, completion_text
from graceful_forgetting.data.encoding import encode_prompts
from graceful_forgetting.data.rows import (
    IGNORE_INDEX,
    OTHER_OPTIONS,
    assistant_template,
    collate,
    context_length,
    labelled,
    require_pad_token,
    require_tokenizer,
    tokenize_dataset,
    tokenize_prompt,
)
from graceful_forgetting.data.tokenizer import fingerprint_tokenizer, settled_tokenizer

__all__ = [
    "IGNORE_INDEX",
    "OTHER_OPTIONS",
    "AnswerReader",
    "answer_ends",
    "assistant_template",
    "collate",
    "completion_text",
    "context_length",
    "encode_prompts",
    "fingerprint_tokenizer",
    "labelled",
    "require_pad_token",
    "require_tokenizer",
    "settled_tokenizer",
    "tokenize_dataset",
    "tokenize_prompt",
]
