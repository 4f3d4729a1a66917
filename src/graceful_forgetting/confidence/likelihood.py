"""L(x) of every row of a batch, from logits at counted positions only."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence

import numpy
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

from graceful_forgetting.data import IGNORE_INDEX


def counted_targets(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Ascending positions (n,) whose next token counts in at least one row, and the next tokens.

    The second is (batch, n), -100 where a row's token does not count: by its label, or as the first token
    after left padding, which is predicted from nothing.
    """
    targets = batch["labels"][:, 1:].masked_fill(batch["attention_mask"][:, :-1] == 0, IGNORE_INDEX)
    positions = (targets != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)
    return positions, targets[:, positions]


def accepts_logits_to_keep(model: nn.Module) -> bool:
    """Whether the model's forward can return logits at chosen positions (transformers' `logits_to_keep`)."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def counted_logits(model: nn.Module, batch: Mapping[str, Tensor], positions: Tensor) -> Tensor:
    """Logits (batch, len(positions), vocabulary) of the tokens after `positions`; no others are computed.

    Models without `logits_to_keep` compute them all, with the same result. Every entry of `batch` but
    `labels` goes to the model.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if accepts_logits_to_keep(model):
        return model(**inputs, use_cache=False, logits_to_keep=positions).logits
    return model(**inputs, use_cache=False).logits[:, positions]


def mean_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """L of every row, (batch,) float32: mean negative log-likelihood over targets that are not -100.

    Args:
        logits: (batch, positions, vocabulary).
        targets: (batch, positions), the token that follows each position.
    """
    nll = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    ).view(targets.shape)
    return nll.sum(dim=1) / (targets != IGNORE_INDEX).sum(dim=1)


@torch.no_grad()
def draw_targets(logits: Tensor, targets: Tensor, indices: Sequence[int], seed: int) -> Tensor:
    """Targets drawn from the model's own distribution at every counted position; -100 stays.

    A row's draws depend on `seed`, its index in the data set and its own logits, not on the batch that it
    is in.

    Args:
        logits: (batch, positions, vocabulary).
        targets: (batch, positions).
        indices: index in the data set of every row of the batch.

    Returns:
        (batch, positions), as `targets`.
    """
    drawn = targets.clone()
    for row, index in enumerate(indices):
        counted = targets[row] != IGNORE_INDEX
        # Cumulated in float64: float32 loses the tail of a large vocabulary.
        cumulated = logits[row, counted].double().softmax(dim=-1).cumsum(dim=-1)
        uniform = torch.from_numpy(_row_generator(seed, index).random(len(cumulated))).to(cumulated.device)
        threshold = (uniform * cumulated[:, -1]).unsqueeze(1)
        tokens = torch.searchsorted(cumulated, threshold, right=True).squeeze(1)
        drawn[row, counted] = tokens.clamp(max=logits.shape[-1] - 1)
    return drawn


def _row_generator(seed: int, index: int) -> numpy.random.Generator:
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=16).digest()
    return numpy.random.default_rng(int.from_bytes(digest, "little"))
