"""The terms of forgetting confidence: from one backward pass a batch, or with a line search for α, one a sample."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor

from graceful_forgetting.confidence.losses import exchanged
from graceful_forgetting.confidence.scorer import Inputs, Measurement, Need
from graceful_forgetting.confidence.weights import ConfidenceWeights
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.memory import MemoryEstimate, backward_bytes
from graceful_forgetting.gradients.parameters import ParameterValues
from graceful_forgetting.gradients.reducers import ConfidenceTerms
from graceful_forgetting.gradients.token_loss import mean_losses
from graceful_forgetting.gradients.undisturbed import differentiating

# Multiples of Polyak's step L/‖g‖² that a line search tries: on a plateau of L, as in a model at random weights, the
# best step is several times as long, in a curved valley far shorter.
GRID = tuple(2.0**exponent for exponent in range(-6, 6))


class ForgettingTerms(Measurement):
    """What FC(x) is made of: `loss` L(x), `product` ⟨F Δ, g⟩, `square` Σ F g², and `step`, of which α is a multiple.

    The step is Polyak's with rule 'polyak', that of the line search with 'line_search', else 1.

    Derived columns: `step_size` α; `constant` ½ Σ F Δ²; `linear` −α ⟨F Δ, g⟩ and `quadratic` ½ α² Σ F g², both 0 where
    g is 0; `crossover`, see the function of that name.
    """

    columns = ("loss", "product", "square", "step")
    needs = frozenset({Need.POSTERIOR, Need.FISHER})
    undefined = frozenset({"step"})

    _engine: PerSampleEngine
    _terms: ConfidenceTerms

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        assert inputs.posterior is not None
        self._posterior = inputs.posterior
        self._constant = torch.nan

    @classmethod
    def of(cls, inputs: Inputs) -> Measurement:
        return LineSearchTerms(inputs) if inputs.config.step_size_rule == "line_search" else cls(inputs)

    def memory(self, row: Mapping[str, Tensor], batch_size: int) -> MemoryEstimate:
        model, kept = self.inputs.model, self.inputs.config.weights
        covered = [parameter for name, parameter in model.named_parameters() if name in self._posterior.mean]
        return MemoryEstimate.on(
            model,
            backward_bytes(model, row, batch_size, self.parameters()),
            weights=ConfidenceWeights.nbytes(covered, kept),
            remedies=() if kept == "streamed" else ("set weights='streamed' (or 'bfloat16')",),
        )

    def parameters(self) -> list[str]:
        return list(self._posterior.mean)

    def settings(self) -> Mapping[str, str]:
        config = self.inputs.config
        return {
            # The crossover is worked out from values that are measured as for a fixed step.
            "step": "fixed" if config.step_size_rule == "crossover" else config.step_size_rule,
            # Where F and FΔ are does not change the values.
            "weights": "float32" if config.weights == "streamed" else config.weights,
        }

    def _weights(self) -> ConfidenceWeights:
        values = ParameterValues(self.inputs.model, self._posterior.mean)
        weights = ConfidenceWeights(values, self._posterior, self.inputs.config.weights)
        self._constant = weights.constant
        return weights

    @contextmanager
    def prepared(self) -> Iterator[None]:
        weights = self._weights()
        self._terms = weights.reducer(norms=self.inputs.config.step_size_rule == "polyak")
        with PerSampleEngine(self.inputs.model, weights.names) as self._engine:
            yield

    def measure(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        loss = self._engine.run(self.inputs.batch(indices), self._terms).to("cpu", torch.float64)
        norms = self._terms.norms
        step = torch.ones_like(loss) if norms is None else polyak_step(loss, norms.cpu())
        return {"loss": loss, "product": self._terms.linear, "square": self._terms.quadratic, "step": step}

    def derived(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        config, product, square = self.inputs.config, values["product"], values["square"]
        step_size = config.step_size * values["step"]
        if config.step_size_rule == "crossover":
            at = _median_crossover(product, square)
            self.inputs.announce(
                f"α is {config.step_size * at:.3g}: {config.step_size:g} times the median crossover of the samples"
            )
            step_size *= at
        return {
            "step_size": step_size,
            "constant": torch.full_like(product, self._constant),
            "linear": -step_size.nan_to_num() * product,
            "quadratic": 0.5 * step_size.nan_to_num() ** 2 * square,
            "crossover": crossover(product, square),
        }


class LineSearchTerms(ForgettingTerms):
    """The same columns; `step` is the α of `GRID` · L/‖g‖² with the lowest L(x; θ − α g).

    One backward pass a sample gives g, which is reduced to the terms and stepped along; the search itself is
    forward passes only. g and θ − α g of one sample are held: two copies of the parameters covered.
    """

    _held: ConfidenceWeights

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        self._stepped: dict[str, Tensor] = {}

    def memory(self, row: Mapping[str, Tensor], batch_size: int) -> MemoryEstimate:  # noqa: ARG002
        found = super().memory(row, 1)
        covered = [p.nbytes for name, p in self.inputs.model.named_parameters() if name in self._posterior.mean]
        return replace(found, copies=2 * sum(covered), remedies=(*found.remedies, "use step_size_rule='polyak'"))

    @contextmanager
    def prepared(self) -> Iterator[None]:
        self._held = self._weights()
        self._stepped = {name: torch.empty_like(p, requires_grad=False) for name, p in self._held.parameters.items()}
        with differentiating(self.inputs.model, self._held.names):
            yield

    def measure(self, indices: Sequence[int]) -> Mapping[str, Tensor]:
        values = torch.full((len(indices), len(self.columns)), torch.nan, dtype=torch.float64)
        for position, index in enumerate(indices):
            batch = self.inputs.batch([index])
            loss, gradients = self._gradients(batch)
            product = square = squared_norm = torch.zeros((), dtype=torch.float64)
            for name, gradient in gradients.items():
                v, f = (weight.float() for weight in self._held.pair(name))
                gradient = gradient.float()
                product = product + (gradient * v).sum(dtype=torch.float64).cpu()
                square = square + (gradient.square() * f).sum(dtype=torch.float64).cpu()
                squared_norm = squared_norm + gradient.square().sum(dtype=torch.float64).cpu()
            step = polyak_step(loss, squared_norm)
            if bool(step.isfinite()):
                step = torch.tensor(self._search(batch, gradients, float(step)), dtype=torch.float64)
            values[position] = torch.stack([loss, product, square, step])
        return dict(zip(self.columns, values.unbind(dim=1), strict=True))

    def _gradients(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        parameters = self._held.parameters
        with torch.enable_grad():
            loss = mean_losses(self.inputs.model, batch)[0]
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        gradients = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
        return loss.detach().to("cpu", torch.float64), gradients

    @torch.no_grad()
    def _search(self, batch: dict[str, Tensor], gradients: dict[str, Tensor], polyak: float) -> float:
        model, parameters = self.inputs.model, self._held.parameters
        best_step, best_loss = GRID[0] * polyak, float("inf")
        for factor in GRID:
            step = factor * polyak
            for name, gradient in gradients.items():
                torch.add(parameters[name].detach(), gradient, alpha=-step, out=self._stepped[name])
            with exchanged(model, {name: self._stepped[name] for name in gradients}):
                loss = float(mean_losses(model, batch)[0])
            # Strictly: of equal losses the shorter step, and a loss that is not a number is never the lowest.
            if loss < best_loss:
                best_step, best_loss = step, loss
        return best_step


def polyak_step(loss: Tensor, squared_norm: Tensor) -> Tensor:
    """L / ‖g‖²: the step after which the linear model of L is 0 (Polyak 1987); NaN where g is 0."""
    return torch.where(squared_norm > 0, loss / squared_norm, torch.nan)


def crossover(product: Tensor, square: Tensor) -> Tensor:
    """α× = 2 |⟨F Δ, g⟩| / Σ F g², at which linear and quadratic term are equally large; NaN where Σ F g² is 0."""
    return torch.where(square > 0, 2 * product.abs() / square, torch.nan)


def _median_crossover(product: Tensor, square: Tensor) -> float:
    """Median of the crossovers of all rows that have one."""
    found = crossover(product, square)
    finite = found[found.isfinite()].tolist()
    if not finite:
        raise ValueError(
            "step_size_rule='crossover': no sample of self_knowledge has a crossover, since Σ F g² is 0 for all of "
            "them (F is 0 wherever they have a gradient), so that all scores are equal; estimate a posterior of other "
            "learning rows or parameters, or use step_size_rule='fixed'"
        )
    found_median: float = median(finite)
    if found_median == 0:
        raise ValueError(
            "step_size_rule='crossover': the median crossover of self_knowledge is 0, since ⟨F Δ, g⟩ is 0 for half of "
            "the samples or more (θ*_L is θ_base in what they have gradients of); train the reference run further, or "
            "use step_size_rule='fixed'"
        )
    return found_median
