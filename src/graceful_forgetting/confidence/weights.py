"""F and V = F Δ, the weights that per-sample gradients are reduced against: held, or read layer by layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graceful_forgetting.config import ScoringWeights
from graceful_forgetting.gradients.parameters import ParameterValues
from graceful_forgetting.gradients.reducers import ConfidenceTerms
from graceful_forgetting.gradients.rules import as_matrix
from graceful_forgetting.posterior import LearningPosterior


class ConfidenceWeights:
    """V = F Δ and F of every parameter of a posterior, Δ = θ_base − θ*_L.

    With 'float32' and 'bfloat16' both are held on the device of the parameter, in that type. With 'streamed' nothing is
    held: F and θ*_L are read (from the posterior's memory-mapped file, if it came from one) each time that they are
    asked for, and V is formed on the parameter's device, in float32: the same values.

    Attributes:
        parameters: those covered, by name.
        constant: ½ Σ F Δ², summed in float64.
    """

    def __init__(self, values: ParameterValues, posterior: LearningPosterior, kept: ScoringWeights) -> None:
        self.parameters = values.parameters
        self.names = list(posterior.precision)
        self._values = values
        self._posterior = posterior
        self._dtype = torch.bfloat16 if kept == "bfloat16" else torch.float32
        self._held: dict[str, tuple[Tensor, Tensor]] = {}
        self.constant = 0.0
        for name in sorted(self.names):
            difference = values[name].cpu() - posterior.mean[name]
            linear = posterior.precision[name] * difference
            self.constant += 0.5 * float((linear * difference).sum(dtype=torch.float64))
            if kept != "streamed":
                self._held[name] = (self._moved(name, linear), self._moved(name, posterior.precision[name]))

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """V and F, shaped as the parameter, on its device."""
        if name in self._held:
            return self._held[name]
        precision = self._posterior.precision[name].to(self.parameters[name].device)
        difference = self._values[name] - self._posterior.mean[name].to(precision.device)
        # Written over, so that of the parameter's size one tensor is made.
        return self._moved(name, difference.mul_(precision)), self._moved(name, precision)

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

    @staticmethod
    def nbytes(parameters: Sequence[nn.Parameter], kept: ScoringWeights) -> int:
        """What F and V of these parameters take: of all of them if held, else of the largest, while it is formed."""
        sizes = [parameter.numel() for parameter in parameters]
        # On the CPU the posterior's own F and θ*_L serve.
        on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
        if kept == "streamed":
            return 4 * max(sizes) * (1 if on_cpu else 3)
        if kept == "bfloat16":
            return 2 * 2 * sum(sizes)
        return 4 * sum(sizes) * (1 if on_cpu else 2)


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
