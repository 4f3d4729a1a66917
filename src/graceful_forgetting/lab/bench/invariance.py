"""`graceful env`: whether the loss and the gradient of a row depend on the rows beside it in the batch.

The idea is that of `bergson.diagnose` (EleutherAI, https://github.com/EleutherAI/bergson).
"""

from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from graceful_forgetting.lab.bench.architectures import padded_batch
from graceful_forgetting.lab.bench.methods import Setting

LIMIT = 1e-3
"""Relative difference beyond which scores may depend on the batch. Float32 stays a hundred times below it."""
_DTYPES = (torch.float32, torch.bfloat16)
_ATTENTIONS = ("eager", "sdpa")
_LENGTHS = (17, 40, 96)


class Dependence(NamedTuple):
    """Largest relative difference of a row in a batch from the same row alone.

    loss: |Δ| / |loss| of the mean over the row's completion tokens.
    gradient: ‖Δ‖ / ‖g‖ over all parameters together.
    """

    loss: float
    gradient: float


def batch_dependence(model: nn.Module, rows: Dataset) -> Dependence:
    """Compare every row alone with the same row among all `rows`, padded on the right to the longest.

    Args:
        model: a causal language model in evaluation mode.
        rows: 2 or more, with `input_ids` and `labels` of different lengths.
    """
    losses, gradients = [], []
    for index in range(len(rows)):
        (alone, expected), (among, found) = (
            _loss_and_gradient(model, chosen, at) for chosen, at in ((rows.select([index]), 0), (rows, index))
        )
        losses.append(abs(among - alone) / abs(alone))
        gradients.append(float((found - expected).norm() / expected.norm()))
    return Dependence(max(losses), max(gradients))


def _loss_and_gradient(model: nn.Module, rows: Dataset, index: int) -> tuple[float, Tensor]:
    """Of one row of a batch: its loss, and the gradient of it for all parameters as one vector in float32."""
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in padded_batch(rows, model, left=False).items()}
    labels = batch.pop("labels")[index : index + 1]
    logits = model(**batch, use_cache=False).logits[index : index + 1]
    loss = ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.cat([gradient.float().flatten() for gradient in gradients])


def batch_report(device: torch.device) -> list[str]:
    """A line for each type of number and attention: the differences in a small Llama, and what they mean for scores."""
    text = Setting(max(_LENGTHS), 0, 1).rows()[0]
    rows = Dataset.from_list([{name: ids[:length] for name, ids in text.items()} for length in _LENGTHS])
    lines = []
    for dtype in _DTYPES:
        for attention in _ATTENTIONS:
            model = Setting(max(_LENGTHS), 0, 1).model().to(device, dtype)
            model.set_attn_implementation(attention)
            name = f"{str(dtype).removeprefix('torch.')}, {attention}"
            lines.append(f"{name}: {in_words(batch_dependence(model, rows))}")
    return lines


def in_words(found: Dependence) -> str:
    """The differences, and whether scores may depend on the batch."""
    numbers = f"loss {found.loss:.0e}, gradient {found.gradient:.0e}"
    if max(found) > LIMIT:
        return f"{numbers}: scores may depend on the rows beside a row; score in float32 where that matters"
    return f"{numbers}: scores do not depend on the rows beside a row"
