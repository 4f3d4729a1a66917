"""F and V = F Δ, the weights that per-sample gradients are reduced against: held, or read layer by layer."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graceful_forgetting.config import WeightsDtype, WeightsPlacement
from graceful_forgetting.gradients.parameters import ParameterValues
from graceful_forgetting.gradients.reducers import ConfidenceTerms
from graceful_forgetting.gradients.rules import as_matrix

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

    def reducer(self, *, norms: bool = False) -> ConfidenceTerms:
        """A reducer of per-sample gradients to the terms of the confidence."""
        if self._held and self._dtype == torch.float32:
            linear = {name: v for name, (v, _) in self._held.items()}
            quadratic = {name: f for name, (_, f) in self._held.items()}
            return ConfidenceTerms(linear, quadratic, self.parameters, norms=norms)
        return LayerwiseTerms(self, norms=norms)

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


class LayerwiseTerms(ConfidenceTerms):
    """As `ConfidenceTerms`, for weights that are not held as float32: those of one parameter at a time are.

    A look-up table is read at the rows that occur only.
    """

    def __init__(self, weights: ConfidenceWeights, *, norms: bool = False) -> None:
        super().__init__({}, {}, weights.parameters, norms=norms)
        self._source = weights
        self._name: str | None = None
        self._current: tuple[Tensor, ...] = ()

    def start(self, batch: int, device: torch.device) -> None:
        super().start(batch, device)
        self._name, self._current = None, ()

    def _pair(self, name: str) -> tuple[Tensor, ...]:
        if name != self._name:
            self._current = ()  # the last ones go before the next are made
            self._name, self._current = name, tuple(as_matrix(weight).float() for weight in self._source.pair(name))
        return self._current

    def _pair_rows(self, name: str, rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(weight.float() for weight in self._source.rows(name, rows))
