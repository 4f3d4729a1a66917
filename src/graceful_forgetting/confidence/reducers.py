"""What becomes of per-sample gradients: each is reduced as it is formed, none is kept.

A reducer receives gradients in two forms. `dense`: a block (samples, rows, columns) of consecutive samples
and rows of one parameter; the block is the reducer's to overwrite. `sparse`: single rows, each of some
sample.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from graceful_forgetting.confidence.contributions import as_matrix


class Reducer(Protocol):
    """Receives every per-sample gradient of a batch, piece by piece."""

    def start(self, batch: int, device: torch.device) -> None:
        """Begin a batch of `batch` samples."""

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        """Take gradients (samples, rows, columns) of parameter `name`, from `sample` and `row` on."""

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor) -> None:
        """Take gradient rows `values` (n, columns) of `name`, with the sample and row of each (n,)."""


class ConfidenceTerms:
    """⟨V, g⟩ and Σ F g² of every sample of a batch, in `linear` and `quadratic`, (batch,) float64.

    Args:
        linear_weights, quadratic_weights: V and F by parameter name; moved to the device of the parameter
            and held there.
        parameters: the model's parameters by name.
    """

    def __init__(
        self,
        linear_weights: Mapping[str, Tensor],
        quadratic_weights: Mapping[str, Tensor],
        parameters: Mapping[str, nn.Parameter],
    ) -> None:
        self._weights = {
            name: tuple(
                as_matrix(weights[name]).to(parameters[name].device, torch.float32)
                for weights in (linear_weights, quadratic_weights)
            )
            for name in quadratic_weights
        }
        self.linear = torch.empty(0)
        self.quadratic = torch.empty(0)
        self._product = torch.empty(0)  # reused: fresh memory for every block costs more than the product

    def start(self, batch: int, device: torch.device) -> None:
        self.linear = torch.zeros(batch, dtype=torch.float64, device=device)
        self.quadratic = torch.zeros(batch, dtype=torch.float64, device=device)

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        v, f = (weight[row : row + block.shape[1]] for weight in self._weights[name])
        samples = slice(sample, sample + len(block))
        if self._product.numel() < block.numel() or self._product.device != block.device:
            self._product = torch.empty(block.numel(), device=block.device)
        # Products are summed by torch.sum, pairwise: a dot product would spare a pass over the block, but accumulates
        # naively in float32 and loses two digits over so many elements, most of which are tiny.
        product = torch.mul(block, v, out=self._product[: block.numel()].view_as(block))
        self.linear[samples] += product.flatten(1).sum(dim=1).double()
        self.quadratic[samples] += block.square_().mul_(f).flatten(1).sum(dim=1).double()

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor) -> None:
        v, f = (weight[rows] for weight in self._weights[name])
        samples = samples.to(self.linear.device)
        for total, products in ((self.linear, values * v), (self.quadratic, values.square() * f)):
            total.index_add_(0, samples, products.sum(dim=1).to(total))


class SquaredGradients:
    """Σ_s g_s² over all batches, in `totals`: float32, by name, shaped as the parameter."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.totals = {
            name: torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
            for name, parameter in parameters.items()
        }

    def start(self, batch: int, device: torch.device) -> None:
        """Nothing is kept by sample."""

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:  # noqa: ARG002
        as_matrix(self.totals[name])[row : row + block.shape[1]] += block.square_().sum(dim=0)

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor) -> None:  # noqa: ARG002
        as_matrix(self.totals[name]).index_add_(0, rows, values.square())

    def is_finite(self) -> bool:
        """Whether every total is finite."""
        return all(bool(total.sum().isfinite()) for total in self.totals.values())


class Signature:
    """Two numbers of every sample's gradient of every parameter: Σ g², and uᵀ g w for fixed vectors u and w.

    Enough to tell a wrong gradient from a right one without holding either: u differs from w, so that a
    transposed or permuted gradient shows as well. In `values[name]`, (batch, 2) float64.
    """

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self._batch = 0

    def start(self, batch: int, device: torch.device) -> None:  # noqa: ARG002
        self.values = {}
        self._batch = batch

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        u, w = self._vectors(torch.arange(row, row + block.shape[1], device=block.device), block)
        projection = (block @ w) @ u
        self._totals(name)[sample : sample + len(block)] += self._pair(block.square().sum(dim=(1, 2)), projection)

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor) -> None:
        u, w = self._vectors(rows, values)
        pairs = self._pair(values.square().sum(dim=1), (values @ w) * u)
        self._totals(name).index_add_(0, samples.cpu(), pairs)

    def agreement(self, other: "Signature", dtypes: Mapping[str, torch.dtype]) -> dict[str, bool]:
        """Whether both saw the same gradient, for every parameter of `dtypes`, to the precision of its type.

        A gradient that is rounding noise (0 in exact arithmetic) is judged against the largest one of its sample.
        Samples whose gradient is not finite cannot be compared and are passed over.
        """
        zero = torch.zeros(self._batch, 2, dtype=torch.float64)
        norms = {name: other.values.get(name, zero)[:, 0].sqrt() for name in dtypes}
        largest = torch.stack(list(norms.values())).amax(dim=0) if norms else zero[:, 0]
        result = {}
        for name, dtype in dtypes.items():
            relative, noise = (1e-3, 1e-6) if dtype in (torch.float32, torch.float64) else (5e-2, 1e-2)
            mine, theirs = self.values.get(name, zero), other.values.get(name, zero)
            allowed = relative * norms[name] + noise * largest
            same_norm = (mine[:, 0].sqrt() - norms[name]).abs() <= allowed
            same_projection = (mine[:, 1] - theirs[:, 1]).abs() <= allowed
            # A gradient that did not reach this one is an omission, however small.
            seen = torch.tensor(name in self.values) | (norms[name] == 0)
            result[name] = bool(((same_norm & same_projection & seen) | ~largest.isfinite()).all())
        return result

    def _totals(self, name: str) -> Tensor:
        return self.values.setdefault(name, torch.zeros(self._batch, 2, dtype=torch.float64))

    @staticmethod
    def _vectors(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        columns = torch.arange(values.shape[-1], device=values.device)
        return torch.cos(rows.float()), torch.sin(1.0 + 2.0 * columns.float())

    @staticmethod
    def _pair(square: Tensor, projection: Tensor) -> Tensor:
        return torch.stack([square, projection], dim=1).double().cpu()
