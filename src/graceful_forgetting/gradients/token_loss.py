"""Losses of tokens and of rows: every one that is computed in the package but those of pre-training.

Targets are the tokens that follow each position, -100 where one does not count; losses are in nats, float32.
"""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from graceful_forgetting.data import IGNORE_INDEX
from graceful_forgetting.runtime.internals import without_adapter


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
    return "logits_to_keep" in inspect.signature(without_adapter(model).forward).parameters


def counted_logits(model: nn.Module, batch: Mapping[str, Tensor], positions: Tensor) -> Tensor:
    """Logits (batch, len(positions), vocabulary) of the tokens after `positions`; no others are computed.

    Models without `logits_to_keep` compute them all, with the same result. Every entry of `batch` but
    `labels` goes to the model.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if accepts_logits_to_keep(model):
        return model(**inputs, use_cache=False, logits_to_keep=positions).logits
    return model(**inputs, use_cache=False).logits[:, positions]


def mean_nll(logits: Tensor, targets: Tensor, *, consume: bool = False) -> Tensor:
    """L of every row, (batch,) float32: mean negative log-likelihood over targets that are not -100.

    Args:
        logits: (batch, positions, vocabulary).
        targets: (batch, positions), the token that follows each position.
        consume: in the backward pass the gradient may take the memory of the logits, whose values are then lost.
    """
    overwrite = consume and logits.grad_fn is not None and logits.grad_fn.name() in _UNSHARED
    return token_nll(logits, targets, overwrite).sum(dim=1) / (targets != IGNORE_INDEX).sum(dim=1)


def token_nll(logits: Tensor, targets: Tensor, overwrite: bool = False) -> Tensor:
    """−log p of every target, 0 where it does not count, (batch, positions) float32, differentiable.

    Args:
        logits: (batch, positions, vocabulary).
        targets: (batch, positions).
        overwrite: the gradient takes the memory of the logits, whose values are then lost.
    """
    return _TokenNll.apply(logits.flatten(0, 1), targets.flatten(), overwrite).view(targets.shape)


def mean_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """L(x) of every row of a batch, (batch,), from one forward pass; see `counted_logits` and `mean_nll`."""
    positions, targets = counted_targets(batch)
    return mean_nll(counted_logits(model, batch, positions), targets)


def sequence_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """L(x) of every row from all its logits, by torch's own cross-entropy: what `mean_nll` is checked against.

    Args:
        logits: (batch, length, vocabulary), any floating type.
        labels: (batch, length), -100 where a token does not count.

    Returns:
        (batch,) float32, differentiable. A row without counted tokens gives NaN (no check here, it would stall a GPU):
        `collate` refuses such rows.
    """
    targets = labels[:, 1:].to(logits.device)
    counted = targets != IGNORE_INDEX
    losses = token_losses(logits[:, :-1], targets)
    # Scattered back and summed by row: unlike index_add this is deterministic on every device.
    by_position = losses.new_zeros(counted.shape).masked_scatter(counted, losses)
    return by_position.sum(dim=1) / counted.sum(dim=1)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """−log p of every counted target, row after row, (counted,) float32, differentiable.

    logits: (batch, positions, vocabulary); targets: (batch, positions).
    """
    counted = targets != IGNORE_INDEX
    return nn.functional.cross_entropy(logits[counted].float(), targets[counted], reduction="none")


# Operations whose backward does not need their result, and whose result is no view of one that others may need: a
# linear layer, and positions picked out.
_UNSHARED = {"UnsafeViewBackward0", "IndexBackward0"}


# Logits that are worked on at once: few enough to stay in a CPU's cache, many enough for a device.
_CPU_LOGITS, _DEVICE_LOGITS = 2**19, 2**26


class _TokenNll(torch.autograd.Function):
    """Negative log-likelihood of each target in float32, 0 where it is -100.

    As `torch.nn.functional.cross_entropy`, some positions at a time: of the size of all logits it makes their gradient
    and nothing else (where it may overwrite them, nothing), where three such tensors (and a fourth for bfloat16) cost
    more than the arithmetic.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, overwrite: bool) -> Tensor:
        normaliser = logits.new_empty(len(logits), dtype=torch.float32)
        picked = logits.new_empty(len(logits), dtype=torch.float32)
        for part in _parts(logits):
            own = logits[part].float()
            torch.logsumexp(own, dim=1, out=normaliser[part])
            picked[part] = own.gather(1, targets[part].clamp(min=0).unsqueeze(1)).squeeze(1)
        ctx.save_for_backward(logits, targets, normaliser)
        ctx.overwrite = overwrite
        return torch.where(targets == IGNORE_INDEX, 0.0, normaliser - picked)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, normaliser = ctx.saved_tensors
        counted = targets != IGNORE_INDEX
        weight = torch.where(counted, gradients[0], 0.0).unsqueeze(1)
        every_counts = bool(counted.all())
        result = logits.detach() if ctx.overwrite else torch.empty_like(logits)
        for part in _parts(logits):
            # p elsewhere, and at the target p − 1 as minus the sum of all others: where p is almost 1, the difference
            # itself would have lost its digits, and a fitted row's gradient with them.
            own = result[part] if result.dtype == torch.float32 else torch.empty_like(result[part], dtype=torch.float32)
            torch.sub(logits[part], normaliser[part].unsqueeze(1), out=own).exp_()
            target = targets[part].clamp(min=0).unsqueeze(1)
            own.scatter_(1, target, 0.0)
            own.scatter_(1, target, -own.sum(dim=1, keepdim=True))
            own.mul_(weight[part])
            if not every_counts:
                # Not 0 · NaN: a position that does not count has no gradient.
                own.masked_fill_(~counted[part].unsqueeze(1), 0.0)
            if own.dtype != result.dtype:
                result[part] = own
        return result, None, None


def logits_at_once(device: torch.device) -> int:
    """How many logits losses are made from at once."""
    return _CPU_LOGITS if device.type == "cpu" else _DEVICE_LOGITS


def _parts(logits: Tensor) -> list[slice]:
    step = max(1, logits_at_once(logits.device) // logits.shape[1])
    return [slice(start, start + step) for start in range(0, len(logits), step)]


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
        chosen = logits[row] if bool(counted.all()) else logits[row, counted]
        uniform = torch.from_numpy(_row_generator(seed, index).random(len(chosen))).to(chosen.device)
        drawn[row, counted] = _inverse_cumulative(chosen.float(), uniform)
    return drawn


# Probabilities that are summed before they are cumulated.
_RUN = 64


def _inverse_cumulative(logits: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability passes `uniform`, (n,), of logits (n, vocabulary) float32.

    Cumulated in float64, as float32 loses the tail of a large vocabulary; first over runs of tokens, then within the
    run that is hit, so that few numbers are.
    """
    weights = (logits - logits.amax(dim=1, keepdim=True)).exp_()
    weights = nn.functional.pad(weights, (0, -weights.shape[1] % _RUN)).view(len(logits), -1, _RUN)
    sums = weights.sum(dim=2, dtype=torch.float64)
    cumulated = sums.cumsum(dim=1)
    threshold = (uniform * cumulated[:, -1]).unsqueeze(1)
    run = torch.searchsorted(cumulated, threshold, right=True).clamp(max=sums.shape[1] - 1)
    rest = threshold - (cumulated.gather(1, run) - sums.gather(1, run))
    every = torch.arange(len(logits), device=logits.device)
    within = weights[every, run.squeeze(1)].double().cumsum(dim=1)
    token = run * _RUN + torch.searchsorted(within, rest, right=True).clamp(max=_RUN - 1)
    return token.squeeze(1).clamp(max=logits.shape[1] - 1)


def _row_generator(seed: int, index: int) -> numpy.random.Generator:
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=16).digest()
    return numpy.random.default_rng(int.from_bytes(digest, "little"))
