"""The optimisation loop that the pre-training recipes share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from graceful_forgetting.runtime.progress import progress_bar


def optimise(
    model: PreTrainedModel,
    next_loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    description: str,
) -> list[float]:
    """Train in place with AdamW, a tenth of warm-up and cosine decay; the model comes back in evaluation mode.

    Args:
        model: to train.
        next_loss: the loss of the next batch, a 0-dimensional tensor with a gradient.
        steps: number of updates.
        learning_rate: its peak.
        weight_decay: of AdamW.
        description: label of the progress bar.

    Returns:
        the loss at every step.

    Raises:
        FloatingPointError: a loss that is not finite; names the step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=steps // 10, num_training_steps=steps)
    model.train()
    losses: list[float] = []
    progress = progress_bar(description, "steps", iterable=range(steps))
    for step in progress:
        loss = next_loss()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step}; lower learning_rate={learning_rate}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(value)
        progress.set_postfix(loss=f"{value:.2f}", refresh=False)
    model.eval()
    return losses
