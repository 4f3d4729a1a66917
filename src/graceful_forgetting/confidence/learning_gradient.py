"""Gradients of samples measured against the mean gradient of the learning task."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from graceful_forgetting.confidence.measure import COSINE, LEARNING_PRODUCT, LOSS, Measurement, empty
from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.oracle import oracle_confidence_terms
from graceful_forgetting.gradients.reducers import ConfidenceTerms
from graceful_forgetting.gradients.rows import batches, load_batch, usable_rows
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, mean_nll
from graceful_forgetting.gradients.undisturbed import differentiating


def mean_gradient(model: PreTrainedModel, learning: Dataset, batch_size: int) -> dict[str, Tensor]:
    """Mean over the rows of ∇L(row), by name of every parameter that requires a gradient, float32 on its device.

    Args:
        model: left as it was.
        learning: tokenised (`input_ids`, `labels`); rows in which no token counts are left out.
        batch_size: rows per forward and backward pass; does not change the result but by rounding.

    Raises:
        ValueError: a row that the model cannot take, or none in which a token counts.
    """
    lengths = usable_rows(learning, model, argument="learning")
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    totals = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in parameters.items()}
    with differentiating(model, parameters), torch.enable_grad():
        for indices in batches(lengths, batch_size):
            batch = load_batch(learning, indices, model.device)
            positions, targets = counted_targets(batch)
            loss = mean_nll(counted_logits(model, batch, positions), targets).sum() / len(lengths)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    totals[name] += gradient
    return totals


class LearningMeasurement(Measurement):
    """L(x), and of ∇L(x) and the mean learning gradient ḡ the inner product and the cosine.

    The cosine is ⟨ḡ, g⟩ / (‖ḡ‖ ‖g‖), and 0 where either is 0.

    Args:
        gradient: ḡ by name.
    """

    def __init__(
        self, model: PreTrainedModel, rows: Dataset, gradient: dict[str, Tensor], config: ConfidenceConfig
    ) -> None:
        super().__init__()
        self._model, self._rows, self._gradient = model, rows, gradient
        self._norm = torch.stack([part.double().square().sum().cpu() for part in gradient.values()]).sum().sqrt()
        parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        self._engine = PerSampleEngine(model, gradient, strict=config.strict)
        oracle = config.engine == "oracle"
        self._terms = None if oracle else ConfidenceTerms(gradient, gradient, parameters, norms=True)

    def _prepared(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._terms is None else self._engine

    def measure(self, indices: Sequence[int]) -> Tensor:
        values = empty(indices)
        if self._terms is None:
            chosen = self._rows.select(indices)
            gradient = {name: part.cpu() for name, part in self._gradient.items()}
            # Σ F g² with F = 1 is ‖g‖².
            ones = {name: torch.ones(()).expand(part.shape) for name, part in gradient.items()}
            values[:, LOSS], product, square = oracle_confidence_terms(self._model, chosen, gradient, ones)
        else:
            batch = load_batch(self._rows, indices, self._model.device)
            values[:, LOSS] = self._engine.run(batch, self._terms).cpu()
            assert self._terms.norms is not None
            product, square = self._terms.linear.cpu(), self._terms.norms.cpu()
        values[:, LEARNING_PRODUCT] = product
        norms = square.sqrt() * self._norm
        # A gradient that is not finite must stay so, to be reported.
        values[:, COSINE] = torch.where(norms == 0, 0.0, product / norms)
        return values
