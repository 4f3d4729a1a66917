"""F and V = F Δ, the weights that per-sample gradients are reduced against: held, or read layer by layer."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graceful_forgetting.confidence.reducers import ConfidenceTerms, Reducer
from graceful_forgetting.confidence.rules import as_matrix
from graceful_forgetting.config import WeightsDtype, WeightsPlacement
from graceful_forgetting.parameters import ParameterValues

if TYPE_CHECKING:  # the Fisher estimator, which the posterior is made with, uses this package's engine
    from graceful_forgetting.posterior import LearningPosterior

DTYPES: dict[WeightsDtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ConfidenceWeights:
    """V = F Δ and F of every parameter of a posterior, Δ = θ_base − θ*_L.

    With 'resident' both are held on the device of the parameter. With 'streamed' nothing is held: F and θ*_L
    are read (from the posterior's memory-mapped file, if it came from one) each time that they are asked for,
    and V is formed on the parameter's device. Values are rounded to `dtype` either way, so that the placement
    does not change the result.

    Attributes:
        parameters: those covered, by name.
        constant: ½ Σ F Δ², summed in float64.
    """

    def __init__(
        self,
        values: ParameterValues,
        posterior: "LearningPosterior",
        placement: WeightsPlacement,
        dtype: torch.dtype,
    ) -> None:
        self.parameters = values.parameters
        self.names = list(posterior.precision)
        self._values = values
        self._posterior = posterior
        self._dtype = dtype
        self._held: dict[str, tuple[Tensor, Tensor]] = {}
        self.constant = 0.0
        for name in sorted(self.names):
            difference = values[name].cpu() - posterior.mean[name]
            linear = posterior.precision[name] * difference
            self.constant += 0.5 * float((linear * difference).sum(dtype=torch.float64))
            if placement == "resident":
                self._held[name] = (self._moved(name, linear), self._moved(name, posterior.precision[name]))

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """V and F, shaped as the parameter, on its device."""
        if name in self._held:
            return self._held[name]
        precision = self._posterior.precision[name].to(self.parameters[name].device)
        difference = self._values[name] - self._posterior.mean[name].to(precision.device)
        return self._moved(name, precision * difference), self._moved(name, precision)

    def rows(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `pair`, of the rows (n,) of a matrix only: (n, columns) each."""
        if name in self._held:
            v, f = (as_matrix(weight)[rows] for weight in self._held[name])
            return v, f
        index, device = rows.cpu(), self.parameters[name].device
        precision, mean = (
            as_matrix(part[name])[index].to(device) for part in (self._posterior.precision, self._posterior.mean)
        )
        if self._values.adapter_part(name) is None:
            value = as_matrix(self.parameters[name].detach())[rows.to(device)].float()
        else:
            value = as_matrix(self._values[name])[rows.to(device)]
        return self._moved(name, precision * (value - mean)), self._moved(name, precision)

    def _moved(self, name: str, weight: Tensor) -> Tensor:
        return weight.to(self.parameters[name].device, self._dtype)

    def reducer(self, squared_norm: bool = False) -> "GradientTerms":
        """A reducer of per-sample gradients to the terms of the confidence."""
        if self._held and self._dtype == torch.float32:
            linear = {name: v for name, (v, _) in self._held.items()}
            quadratic = {name: f for name, (_, f) in self._held.items()}
            terms: ConfidenceTerms | LayerwiseTerms = ConfidenceTerms(linear, quadratic, self.parameters)
        else:
            terms = LayerwiseTerms(self)
        return GradientTerms(terms, SquaredNorms() if squared_norm else None)

    def side(self, index: int) -> "Mapping[str, Tensor]":
        """V (index 0) or F (index 1) by name, as CPU tensors made when asked for."""
        return _Side(self, index)


class _Side(Mapping[str, Tensor]):
    def __init__(self, weights: ConfidenceWeights, index: int) -> None:
        self._weights, self._index = weights, index

    def __getitem__(self, name: str) -> Tensor:
        return self._weights.pair(name)[self._index].cpu()

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights.names)

    def __len__(self) -> int:
        return len(self._weights.names)


class LayerwiseTerms:
    """⟨V, g⟩ and Σ F g² of every sample of a batch, with V and F of one parameter at a time, in float32.

    As `ConfidenceTerms`, for weights that are not held as float32. A look-up table is read at the rows that
    occur only.
    """

    def __init__(self, weights: ConfidenceWeights) -> None:
        self._weights = weights
        self._name: str | None = None
        self._pair: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        self.linear = torch.empty(0)
        self.quadratic = torch.empty(0)

    def start(self, batch: int, device: torch.device) -> None:
        self._name = None
        self.linear = torch.zeros(batch, dtype=torch.float64, device=device)
        self.quadratic = torch.zeros(batch, dtype=torch.float64, device=device)

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        if name != self._name:
            # The last ones go before the next are made.
            self._pair = (torch.empty(0), torch.empty(0))
            v, f = self._weights.pair(name)
            self._name, self._pair = name, (as_matrix(v).float(), as_matrix(f).float())
        v, f = (weight[row : row + block.shape[1]] for weight in self._pair)
        samples = slice(sample, sample + len(block))
        self.linear[samples] += (block * v).sum(dim=(1, 2), dtype=torch.float64).to(self.linear)
        self.quadratic[samples] += block.square_().mul_(f).sum(dim=(1, 2)).to(self.quadratic)

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor) -> None:
        v, f = (weight.float() for weight in self._weights.rows(name, rows))
        samples = samples.to(self.linear.device)
        for total, products in ((self.linear, values * v), (self.quadratic, values.square() * f)):
            total.index_add_(0, samples, products.sum(dim=1).to(total))


class SquaredNorms:
    """‖g‖² of every sample of a batch, in `totals`, (batch,) float64."""

    def __init__(self) -> None:
        self.totals = torch.empty(0)

    def start(self, batch: int, device: torch.device) -> None:
        self.totals = torch.zeros(batch, dtype=torch.float64, device=device)

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:  # noqa: ARG002
        norms = torch.linalg.vector_norm(block.flatten(1), dim=1)
        self.totals[sample : sample + len(block)] += norms.to(self.totals).square()

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor) -> None:  # noqa: ARG002
        squares = values.square().sum(dim=1)
        self.totals.index_add_(0, samples.to(self.totals.device), squares.to(self.totals))


class GradientTerms:
    """Hands gradients to `terms` and, where Polyak's step needs it, to `norms`."""

    def __init__(self, terms: ConfidenceTerms | LayerwiseTerms, norms: SquaredNorms | None) -> None:
        self.terms, self.norms = terms, norms
        # The norm comes first: a block is the reducer's to overwrite.
        self._parts: tuple[Reducer, ...] = (terms,) if norms is None else (norms, terms)

    def start(self, batch: int, device: torch.device) -> None:
        for part in self._parts:
            part.start(batch, device)

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        for part in self._parts:
            part.dense(name, sample, row, block)

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor) -> None:
        for part in self._parts:
            part.sparse(name, samples, rows, values)
