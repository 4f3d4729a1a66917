"""Bits per byte of a model on blocks of tokens."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, blocks: Tensor, token_bytes: Sequence[int], batch_size: int = 8) -> float:
    """Negative log-likelihood of all tokens but the first of each block, in bits, per byte of text they stand for.

    Unlike a loss per token it can be compared between tokenizers; 8 is a model that knows nothing of text.

    Args:
        model: comes back in the mode it was in.
        blocks: token ids, (number of blocks, length).
        token_bytes: bytes of text that each token id stands for.
        batch_size: blocks a forward pass.

    Raises:
        ValueError: blocks without any text.
    """
    sizes = torch.tensor(token_bytes)[blocks[:, 1:]].sum().item()
    if sizes == 0:
        raise ValueError("the blocks hold no text, so bits per byte cannot be measured")
    training = model.training
    model.eval()
    nats = 0.0
    for batch in blocks.split(batch_size):
        batch = batch.to(model.device)
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
        nats += loss.item()
    model.train(training)
    return nats / math.log(2) / sizes
