"""What an unlearning objective is: a formula over one batch, and the declaration of what the batch must offer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor


class Need(Enum):
    """What an objective reads beside the log-probabilities of the samples' own tokens.

    `BASE_LOSSES`: L(x) of the base model. `LOGITS`: the whole distribution at every position, which costs memory for
    the vocabulary. `LEARNING`: losses of as many learning rows.
    """

    BASE_LOSSES = "base_losses"
    LOGITS = "logits"
    LEARNING = "learning"


@dataclass(frozen=True)
class UnlearningBatch:
    """What one pass of an unlearning update offers, all differentiable but `mask` and `base_losses`.

    Attributes:
        log_probs: (batch, positions) float32, log-probability of each next token; 0 where it does not count.
        mask: (batch, positions) bool, whether the next token counts.
        logits: (batch, positions, vocabulary), if declared as needed.
        base_losses: (batch,), L(x) of the base model in nats per token, if declared as needed.
        learning_losses: (batch,), L of learning rows, if declared as needed.
    """

    log_probs: Tensor
    mask: Tensor
    logits: Tensor | None = None
    base_losses: Tensor | None = None
    learning_losses: Tensor | None = None

    @property
    def losses(self) -> Tensor:
        """L(x), (batch,): mean negative log-likelihood over counted tokens, nats."""
        return self.mean(-self.log_probs)

    @property
    def lengths(self) -> Tensor:
        """Counted tokens of every sample, (batch,)."""
        return self.mask.sum(dim=1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` (batch, positions) over counted tokens, (batch,)."""
        return values.masked_fill(~self.mask, 0).sum(dim=1) / self.lengths


class Objective(ABC):
    """What an unlearning update minimises: the mean of `values` over the samples.

    `needs`: what a batch must offer. `unlearns_end`: whether the token that ends an answer counts too. A model that
    unlearns it learns not to stop.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    unlearns_end: ClassVar[bool] = True

    @abstractmethod
    def values(self, batch: UnlearningBatch) -> Tensor:
        """(batch,), differentiable."""

    def active(self, batch: UnlearningBatch) -> Tensor:
        """What of each sample still has a gradient, (batch,) of truth values or of numbers from 0 to 1; here all.

        An update is shorter by the mean of it: AdamW takes a step of one length however few samples ask for it. An
        update without any is left out.
        """
        return torch.ones(len(batch.mask), device=batch.mask.device)
