"""Pre-training of a world's model from nothing: short questions with a one-token answer, some of them
mislabelled."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from graceful_forgetting.worlds.optimisation import optimise


@dataclass(frozen=True)
class PretrainingData:
    """Questions and answers as tokens, one row a question.

    Attributes:
        input_ids: (rows, length) prompt, answer, EOS, padding on the right.
        answer_positions: (rows,) where the answer stands.
        alternatives: (rows, k) what a mislabelled answer is drawn from.
    """

    input_ids: Tensor
    answer_positions: Tensor
    alternatives: Tensor


def pretrain(
    model: LlamaForCausalLM,
    data: PretrainingData,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    label_noise: float,
    seed: int,
    description: str,
) -> list[float]:
    """Train in place on answer and EOS token; returns the loss of every step in nats a token.

    AdamW; the rate warms up over a tenth of the steps, then follows a cosine to 0. Runs on one thread, so
    that the same seed gives the same weights bit for bit whatever the number of cores (on one kind of
    processor and torch version).

    Args:
        label_noise: share of the answers of every batch that is replaced by one of the row's alternatives,
            drawn anew each time. It keeps the model from becoming certain, where gradients vanish.
        seed: order of the rows and label noise.
        description: label of the progress bar.

    Raises:
        FloatingPointError: the loss stopped being finite.
    """
    batches = _batches(data, batch_size, label_noise, seed)
    with _one_thread():
        return optimise(
            model,
            lambda: _answer_loss(model, *next(batches)),
            steps=steps,
            learning_rate=learning_rate,
            weight_decay=0.01,
            description=description,
        )


def answer_accuracy(model: LlamaForCausalLM, data: PretrainingData) -> float:
    """Share of the rows whose greedy completion is the answer, then EOS."""
    with torch.no_grad():
        logits, targets = _answer_logits(model, data.input_ids, data.answer_positions)
    return (logits.argmax(dim=-1) == targets).all(dim=1).double().mean().item()


@contextmanager
def _one_thread() -> Iterator[None]:
    # Sums are split over threads, so their last bits depend on the number of threads; and matrices as small
    # as these gain little from a second one.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _batches(data: PretrainingData, batch_size: int, label_noise: float, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: `input_ids` (batch, length) and `answer_positions` (batch,), in a new order each
    epoch."""
    generator = torch.Generator().manual_seed(seed)
    queue = torch.empty(0, dtype=torch.long)
    while True:
        while len(queue) < batch_size:
            queue = torch.cat([queue, torch.randperm(len(data.input_ids), generator=generator)])
        rows, queue = queue[:batch_size], queue[batch_size:]
        input_ids, positions = data.input_ids[rows], data.answer_positions[rows]
        alternatives = data.alternatives[rows]
        choice = torch.randint(alternatives.shape[1], (batch_size, 1), generator=generator)
        wrong = torch.rand(batch_size, generator=generator) < label_noise
        given = input_ids.gather(1, positions[:, None])
        noisy = torch.where(wrong[:, None], alternatives.gather(1, choice), given)
        yield input_ids.scatter(1, positions[:, None], noisy), positions


def _answer_logits(model: LlamaForCausalLM, input_ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (batch, 2, vocabulary) that predict answer and EOS, and these two tokens (batch, 2)."""
    targets_at = torch.stack([positions, positions + 1], dim=1)
    # Padding is on the right, so no token that counts attends to it: a mask would only cost time.
    hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
    predicting = (targets_at - 1)[:, :, None].expand(-1, -1, hidden.shape[2])
    return model.lm_head(hidden.gather(1, predicting)), input_ids.gather(1, targets_at)


def _answer_loss(model: LlamaForCausalLM, input_ids: Tensor, positions: Tensor) -> Tensor:
    logits, targets = _answer_logits(model, input_ids, positions)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
