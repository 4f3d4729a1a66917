"""The reference of every faster path: one ordinary backward pass a sample, nothing clever."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor, nn

from graceful_forgetting.config import FisherEstimator
from graceful_forgetting.data import IGNORE_INDEX, collate
from graceful_forgetting.gradients.token_loss import draw_targets, sequence_losses
from graceful_forgetting.gradients.undisturbed import differentiating


class ConfidenceValues(NamedTuple):
    """Per row, (rows,) float64: L(x), ⟨V, g⟩ and Σ F g² with g = ∇L(x)."""

    loss: Tensor
    linear: Tensor
    quadratic: Tensor


def oracle_confidence_terms(
    model: nn.Module,
    dataset: Dataset,
    linear_weights: Mapping[str, Tensor],
    quadratic_weights: Mapping[str, Tensor],
) -> ConfidenceValues:
    """⟨V, g⟩ and Σ F g² of every row of a tokenised data set, one backward pass a row.

    Args:
        model: causal language model; left as it was.
        dataset: columns `input_ids` and `labels`; in every row a token must count.
        linear_weights, quadratic_weights: V and F by parameter name; they name the parameters that g is
            taken of.

    Raises:
        ValueError: weights for other parameters than the model's or each other's; a row in which no token
            counts.
    """
    if set(linear_weights) != set(quadratic_weights):
        raise ValueError("linear_weights and quadratic_weights must name the same parameters")
    values = torch.zeros(len(dataset), 3, dtype=torch.float64)
    with differentiating(model, quadratic_weights):
        parameters = {name: p for name, p in model.named_parameters() if name in quadratic_weights}
        for index, row in enumerate(dataset):
            loss, gradients = _gradients(model, parameters, collate([row], 0, _device(model)))
            linear = sum((linear_weights[name].double() * g).sum() for name, g in gradients.items())
            quadratic = sum((quadratic_weights[name].double() * g**2).sum() for name, g in gradients.items())
            values[index] = torch.tensor([float(loss), float(linear), float(quadratic)], dtype=torch.float64)
    return ConfidenceValues(*values.unbind(dim=1))


def oracle_gradients(model: nn.Module, dataset: Dataset, names: Collection[str]) -> tuple[Tensor, Tensor]:
    """L(x) and ∇L(x) of every row of a tokenised data set, one backward pass a row.

    Args:
        model: causal language model; left as it was.
        dataset: columns `input_ids` and `labels`; in every row a token must count.
        names: the parameters that gradients are taken of.

    Returns:
        (rows,) and (rows, parameters), float64 on the CPU.
    """
    losses, found = [], []
    with differentiating(model, names):
        parameters = {name: p for name, p in model.named_parameters() if name in names}
        # A parameter that a row does not reach has no gradient there.
        none = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}
        for row in dataset:
            loss, gradients = _gradients(model, parameters, collate([row], 0, _device(model)))
            losses.append(loss.double().cpu())
            found.append(torch.cat([part.flatten() for part in (none | gradients).values()]))
    return torch.stack(losses), torch.stack(found)


def oracle_fisher(
    model: nn.Module, dataset: Dataset, estimator: FisherEstimator = "empirical", seed: int = 42
) -> dict[str, Tensor]:
    """Diagonal Fisher information: mean over the rows of the squared ∇L(x), one backward pass a row.

    Args:
        model: causal language model; left as it was.
        dataset: columns `input_ids` and `labels`; in every row a token must count.
        estimator: 'empirical' takes the labels, 'sampled' draws them from the model.
        seed: of the draws.

    Returns:
        float32 CPU tensors by name, for every parameter that requires a gradient.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    with differentiating(model, names):
        parameters = {name: p for name, p in model.named_parameters() if name in names}
        totals = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in parameters.items()}
        for index, row in enumerate(dataset):
            batch = collate([row], 0, _device(model))
            if estimator == "sampled":
                with torch.no_grad():
                    logits = _logits(model, batch)
                drawn = draw_targets(logits[:, :-1], batch["labels"][:, 1:], [index], seed)
                batch["labels"] = torch.cat([torch.full_like(drawn[:, :1], IGNORE_INDEX), drawn], dim=1)
            for name, gradient in _gradients(model, parameters, batch)[1].items():
                totals[name] += gradient**2
    return {name: (total / len(dataset)).float() for name, total in totals.items()}


def _logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def _gradients(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], batch: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.enable_grad():
        loss = sequence_losses(_logits(model, batch), batch["labels"])[0]
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    found = zip(parameters, gradients, strict=True)
    return loss.detach(), {name: gradient.double().cpu() for name, gradient in found if gradient is not None}


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
