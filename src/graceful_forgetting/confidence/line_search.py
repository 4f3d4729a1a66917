"""The step along −∇L(x) that lowers L(x) most, sample by sample."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from graceful_forgetting.confidence.measure import (
    LOSS,
    PRODUCT,
    SQUARE,
    STEP,
    Measurement,
    empty,
    exchanged,
    losses,
    polyak_step,
)
from graceful_forgetting.confidence.weights import ConfidenceWeights
from graceful_forgetting.gradients.rows import load_batch
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, mean_nll
from graceful_forgetting.gradients.undisturbed import differentiating

# Multiples of Polyak's step L/‖g‖² that are tried: on a plateau of L, as in a model at random weights, the best step is
# several times as long, in a curved valley far shorter.
GRID = tuple(2.0**exponent for exponent in range(-6, 6))


class LineSearchMeasurement(Measurement):
    """L(x), ⟨V, g⟩, Σ F g² and the α of `GRID` · L/‖g‖² with the lowest L(x; θ − α g).

    One backward pass a sample gives g, which is reduced to the terms and stepped along; the search itself is
    forward passes only. g and θ − α g of one sample are held: two copies of the parameters covered.
    """

    def __init__(self, model: PreTrainedModel, rows: Dataset, weights: ConfidenceWeights) -> None:
        super().__init__()
        self._model, self._rows, self._weights = model, rows, weights
        self._stepped = {name: torch.empty_like(p, requires_grad=False) for name, p in weights.parameters.items()}

    def _prepared(self) -> AbstractContextManager[Any]:
        return differentiating(self._model, self._weights.names)

    def measure(self, indices: Sequence[int]) -> Tensor:
        values = empty(indices)
        for position, index in enumerate(indices):
            batch = load_batch(self._rows, [index], self._model.device)
            loss, gradients = self._gradients(batch)
            product = square = squared_norm = torch.zeros((), dtype=torch.float64)
            for name, gradient in gradients.items():
                v, f = (weight.float() for weight in self._weights.pair(name))
                gradient = gradient.float()
                product = product + (gradient * v).sum(dtype=torch.float64).cpu()
                square = square + (gradient.square() * f).sum(dtype=torch.float64).cpu()
                squared_norm = squared_norm + gradient.square().sum(dtype=torch.float64).cpu()
            values[position, LOSS], values[position, PRODUCT], values[position, SQUARE] = loss, product, square
            polyak = polyak_step(values[position, LOSS], squared_norm)
            values[position, STEP] = self._search(batch, gradients, float(polyak)) if polyak.isfinite() else polyak
        return values

    def _gradients(self, batch: dict[str, Tensor]) -> tuple[float, dict[str, Tensor]]:
        parameters = self._weights.parameters
        with torch.enable_grad():
            positions, targets = counted_targets(batch)
            loss = mean_nll(counted_logits(self._model, batch, positions), targets)[0]
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
        return float(loss.detach()), gradients

    @torch.no_grad()
    def _search(self, batch: dict[str, Tensor], gradients: dict[str, Tensor], polyak: float) -> float:
        best_step, best_loss = GRID[0] * polyak, float("inf")
        for factor in GRID:
            step = factor * polyak
            for name, gradient in gradients.items():
                torch.add(self._weights.parameters[name].detach(), gradient, alpha=-step, out=self._stepped[name])
            with exchanged(self._model, {name: self._stepped[name] for name in gradients}):
                loss = float(losses(self._model, batch)[0])
            # Strictly: of equal losses the shorter step, and a loss that is not a number is never the lowest.
            if loss < best_loss:
                best_step, best_loss = step, loss
        return best_step
