"""Where a gradient is not finite."""

from collections.abc import Collection, Sequence

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel

from graceful_forgetting.gradients.rows import load_batch
from graceful_forgetting.gradients.token_loss import mean_losses
from graceful_forgetting.gradients.undisturbed import differentiating


def not_finite(
    model: PreTrainedModel, rows: Dataset, indices: Sequence[int], names: Collection[str], argument: str
) -> FloatingPointError:
    """An error that names the first of the rows `indices` and the parameters where its gradient is not finite.

    The row's own labels are used, by one ordinary backward pass.
    """
    index = min(indices)
    loss, parameters = _non_finite_gradients(model, rows, index, names)
    more = f" (and {len(set(indices)) - 1} more rows)" if len(set(indices)) > 1 else ""
    where = "" if not parameters else f" in {parameters[0]}"
    if len(parameters) > 1:
        where += f" (and {len(parameters) - 1} more parameters)"
    return FloatingPointError(
        f"{argument}: the gradient of row {index}{more} is not finite{where}, at loss {loss:.6g}; look for NaN in the "
        "model's weights, or load it in float32"
    )


def _non_finite_gradients(
    model: PreTrainedModel, rows: Dataset, index: int, names: Collection[str]
) -> tuple[float, list[str]]:
    batch = load_batch(rows, [index], model.device)
    with differentiating(model, names), torch.enable_grad():
        parameters: dict[str, nn.Parameter] = {n: p for n, p in model.named_parameters() if n in names}
        loss = mean_losses(model, batch)[0]
        if not parameters:
            return float(loss), []
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    wrong = [
        name
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and not bool(gradient.isfinite().all())
    ]
    return float(loss.detach()), wrong
