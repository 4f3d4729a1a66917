"""Rows that are generated together: what they hold, and how some leave and others join."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache, DynamicCache

from graceful_forgetting.generation.beginning import Beginning
from graceful_forgetting.generation.requests import Request
from graceful_forgetting.runtime.internals import join_caches, pad_cache, rows_can_join


@dataclass
class Rows:
    """Rows under way, aligned at their last token: padding, prompt, tokens generated so far.

    Attributes:
        numbers: which request each row is.
        generated: tokens that each row has generated so far.
        sequences: (rows, width) token ids.
        attended: (rows, width) 1 where a token counts, 0 at padding.
        log_probabilities: (rows, most tokens generated) of the generated tokens, aligned at the last one.
        cache: keys and values of all columns but the last, of rows that start of the first ones alone; None where all
            are to be computed.
    """

    numbers: list[int]
    generated: list[int]
    sequences: Tensor
    attended: Tensor
    log_probabilities: Tensor
    cache: Cache | None

    @classmethod
    def start(
        cls,
        requests: Sequence[Request],
        numbers: Sequence[int],
        pad_token_id: int,
        device: torch.device,
        beginning: Beginning | None = None,
    ) -> "Rows":
        """The prompts of `requests`, which have these numbers; `beginning`: what all begin with, if it is read."""
        width = max(len(request.prompt_ids) for request in requests)
        padding = [width - len(request.prompt_ids) for request in requests]
        ids = [[pad_token_id] * left + request.prompt_ids for left, request in zip(padding, requests, strict=True)]
        return cls(
            numbers=list(numbers),
            generated=[0] * len(requests),
            sequences=torch.tensor(ids, device=device),
            attended=torch.tensor([[0] * left + [1] * (width - left) for left in padding], device=device),
            log_probabilities=torch.empty(len(requests), 0, device=device),
            cache=None if beginning is None else beginning.of_rows(padding),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def can_be_joined(self) -> bool:
        """Whether other rows can join, which depends on the kind of cache."""
        return rows_can_join(self.cache)

    def answer(self, row: int) -> tuple[list[int], list[float]]:
        """Tokens that a row has generated, and their log-probabilities."""
        count = self.generated[row]
        return self.sequences[row, -count:].tolist(), self.log_probabilities[row, -count:].tolist()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows, and the columns that are padding in those that stay."""
        if len(rows) == len(self):
            return
        kept = torch.tensor(rows, dtype=torch.long, device=self.sequences.device)
        self.numbers = [self.numbers[row] for row in rows]
        self.generated = [self.generated[row] for row in rows]
        self.log_probabilities = self.log_probabilities[kept]
        self.sequences, self.attended = self.sequences[kept], self.attended[kept]
        if not rows:
            self.cache = None
            return
        if self.cache is not None:
            self.cache.batch_select_indices(kept)
        if self.cache is None or self.can_be_joined:
            self._align(int(self.attended.sum(dim=1).max()))

    def join(self, other: "Rows") -> None:
        """Add the rows of `other`; both must be able to (`can_be_joined`)."""
        width = max(self.sequences.shape[1], other.sequences.shape[1])
        self._align(width)
        other._align(width)
        self.numbers += other.numbers
        self.generated += other.generated
        self.sequences = torch.cat([self.sequences, other.sequences])
        self.attended = torch.cat([self.attended, other.attended])
        noted = max(self.log_probabilities.shape[1], other.log_probabilities.shape[1])
        self.log_probabilities = torch.cat(
            [pad(part, (noted - part.shape[1], 0)) for part in (self.log_probabilities, other.log_probabilities)]
        )
        assert isinstance(self.cache, DynamicCache)
        assert isinstance(other.cache, DynamicCache)
        join_caches(self.cache, other.cache)

    def _align(self, width: int) -> None:
        """Add or remove padding on the left."""
        more = width - self.sequences.shape[1]
        if more == 0:
            return
        # A padding token is never attended to: any valid id will do.
        self.sequences, self.attended = pad(self.sequences, (more, 0)), pad(self.attended, (more, 0))
        if isinstance(self.cache, DynamicCache):
            pad_cache(self.cache, more)
