"""Batched completion of tokenised prompts through `model.generate`.

Imports `data`, `config` and `runtime`.
"""

from graceful_forgetting.generation.batched import complete, generate_completions
from graceful_forgetting.generation.requests import (
    Completion,
    Request,
    check_context,
    make_requests,
    stop_token_ids,
    until_stop,
)

__all__ = [
    "Completion",
    "Request",
    "check_context",
    "complete",
    "generate_completions",
    "make_requests",
    "stop_token_ids",
    "until_stop",
]
