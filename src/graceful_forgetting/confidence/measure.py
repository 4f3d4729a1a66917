"""Measuring the rows of a batch: by one backward pass, or by forward passes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from graceful_forgetting.confidence.weights import ConfidenceWeights
from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.oracle import oracle_confidence_terms
from graceful_forgetting.gradients.parameters import ParameterValues
from graceful_forgetting.gradients.rows import load_batch
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, mean_nll
from graceful_forgetting.gradients.undisturbed import differentiating

# Columns of what a measurement returns; those that it does not measure are NaN.
LOSS, PRODUCT, SQUARE, STEP, REFERENCE_LOSS, LEARNING_PRODUCT, COSINE, LEAST_COSINE = range(8)
WIDTH = 8


class Measurement(ABC):
    """Measures rows of a data set; a context manager, as it may hook the model."""

    def __init__(self) -> None:
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._exit.enter_context(self._prepared())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @abstractmethod
    def _prepared(self) -> AbstractContextManager[Any]:
        """The model made ready; set back at the end."""

    @abstractmethod
    def measure(self, indices: Sequence[int]) -> Tensor:
        """(len(indices), WIDTH) float64 on the CPU: see the column numbers above."""


def empty(indices: Sequence[int]) -> Tensor:
    """Values of the rows `indices`, none of them measured."""
    return torch.full((len(indices), WIDTH), torch.nan, dtype=torch.float64)


def polyak_step(loss: Tensor, squared_norm: Tensor) -> Tensor:
    """L / ‖g‖²: the step after which the linear model of L is 0 (Polyak 1987); NaN where g is 0."""
    return torch.where(squared_norm > 0, loss / squared_norm, torch.nan)


class GradientMeasurement(Measurement):
    """L(x), ⟨V, g⟩, Σ F g² and the step of rule 'polyak', or 1 with a rule of one α for all, from one backward pass."""

    def __init__(
        self, model: PreTrainedModel, rows: Dataset, weights: ConfidenceWeights, config: ConfidenceConfig
    ) -> None:
        super().__init__()
        self._model, self._rows, self._weights, self._config = model, rows, weights, config
        self._polyak = config.step_size_rule == "polyak"
        self._engine = PerSampleEngine(model, weights.names, strict=config.strict)
        self._terms = None if config.engine == "oracle" else weights.reducer(norms=self._polyak)

    def _prepared(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._terms is None else self._engine

    def measure(self, indices: Sequence[int]) -> Tensor:
        if self._terms is None:
            return self._one_by_one(indices)
        values = empty(indices)
        values[:, LOSS] = self._engine.run(load_batch(self._rows, indices, self._model.device), self._terms).cpu()
        values[:, PRODUCT] = self._terms.linear.cpu()
        values[:, SQUARE] = self._terms.quadratic.cpu()
        norms = self._terms.norms
        values[:, STEP] = 1.0 if norms is None else polyak_step(values[:, LOSS], norms.cpu())
        return values

    def _one_by_one(self, indices: Sequence[int]) -> Tensor:
        values, chosen = empty(indices), self._rows.select(indices)
        terms = oracle_confidence_terms(self._model, chosen, self._weights.side(0), self._weights.side(1))
        values[:, LOSS], values[:, PRODUCT], values[:, SQUARE] = terms
        values[:, STEP] = 1.0
        if self._polyak:
            ones = dict.fromkeys(self._weights.names, torch.ones(()))
            squared_norm = oracle_confidence_terms(self._model, chosen, ones, ones).quadratic
            values[:, STEP] = polyak_step(values[:, LOSS], squared_norm)
        return values


class ForwardMeasurement(Measurement):
    """L(x) at θ_base and, with `mean`, at θ*_L.

    Args:
        mean: θ*_L by name; held on the device in the type of the parameter beside θ_base.
    """

    def __init__(self, model: PreTrainedModel, rows: Dataset, mean: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self._model, self._rows = model, rows
        self._reference = None if mean is None else in_place_of(model, mean)

    def _prepared(self) -> AbstractContextManager[Any]:
        return differentiating(self._model, ())

    def measure(self, indices: Sequence[int]) -> Tensor:
        values, batch = empty(indices), load_batch(self._rows, indices, self._model.device)
        values[:, LOSS] = losses(self._model, batch).cpu()
        if self._reference is not None:
            with exchanged(self._model, self._reference):
                values[:, REFERENCE_LOSS] = losses(self._model, batch).cpu()
        return values


@torch.no_grad()
def losses(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """L(x) of every row, (batch,) float32."""
    positions, targets = counted_targets(batch)
    return mean_nll(counted_logits(model, batch, positions), targets)


def in_place_of(model: nn.Module, mean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the parameters must be for the model to be at `mean`: a dense weight's adapter adds its part itself."""
    values, found = ParameterValues(model, mean), {}
    for name, parameter in values.parameters.items():
        wanted, part = mean[name].to(parameter.device), values.adapter_part(name)
        found[name] = (wanted if part is None else wanted - part).to(parameter.dtype)
    return found


@contextmanager
def exchanged(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with `tensors` for its parameters of these names inside the block; nothing is copied."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in tensors}
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = tensors[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]
