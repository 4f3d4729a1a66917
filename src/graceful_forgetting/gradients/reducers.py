"""What becomes of per-sample gradients: each is reduced as it is formed, none is kept.

A reducer receives gradients in three forms. `product`: as two factors, which a compiled kernel may reduce without
forming more than a tile. `dense`: a block (samples, rows, columns) of consecutive samples and rows of one parameter;
the block is the reducer's to overwrite. `sparse`: single rows, each of some sample.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from graceful_forgetting.gradients.contributions import as_matrix
from graceful_forgetting.gradients.kernels import gradient_kernel


class Reducer(Protocol):
    """Receives every per-sample gradient of a batch, piece by piece."""

    def start(self, batch: int, device: torch.device) -> None:
        """Begin a batch of `batch` samples."""

    def product(self, name: str, left: Tensor, right: Tensor) -> bool:
        """Take G_s = Σ_t left[s, t] right[s, t]ᵀ of parameter `name`; False: not taken, it is to come as `dense`.

        left: (batch, positions, rows), right: (batch, positions, columns).
        """

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        """Take gradients (samples, rows, columns) of parameter `name`, from `sample` and `row` on."""

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor, taken: Tensor | None = None) -> None:
        """Take gradient rows `values` (n, columns) of `name`, with the sample and row of each (n,).

        taken: (n, columns), what was taken of the same rows before: they are `taken` + `values` in all.
        """


def with_taken(values: Tensor, taken: Tensor | None) -> Tensor:
    """What rows add to a sum of squares: (taken + values)² − taken²."""
    return values.square() if taken is None else values * (values + 2 * taken)


class ConfidenceTerms:
    """⟨V, g⟩ and Σ F g² of every sample of a batch, in `linear` and `quadratic`, (batch,) float64.

    Args:
        linear_weights, quadratic_weights: V and F by parameter name; moved to the device of the parameter
            and held there.
        parameters: the model's parameters by name.
        norms: keep ‖g‖² as well, in `norms`, (batch,) float64.
    """

    def __init__(
        self,
        linear_weights: Mapping[str, Tensor],
        quadratic_weights: Mapping[str, Tensor],
        parameters: Mapping[str, nn.Parameter],
        *,
        norms: bool = False,
    ) -> None:
        self._weights = {
            name: tuple(
                as_matrix(weights[name]).to(parameters[name].device, torch.float32)
                for weights in (linear_weights, quadratic_weights)
            )
            for name in quadratic_weights
        }
        self._with_norms = norms
        self.linear = torch.empty(0)
        self.quadratic = torch.empty(0)
        self.norms: Tensor | None = None
        self._product = torch.empty(0)  # reused: fresh memory for every block costs more than the product

    def start(self, batch: int, device: torch.device) -> None:
        self.linear = torch.zeros(batch, dtype=torch.float64, device=device)
        self.quadratic = torch.zeros(batch, dtype=torch.float64, device=device)
        self.norms = torch.zeros(batch, dtype=torch.float64, device=device) if self._with_norms else None

    def _pair(self, name: str) -> tuple[Tensor, ...]:
        """V and F of a parameter, as float32 matrices."""
        return self._weights[name]

    def _pair_rows(self, name: str, rows: Tensor) -> tuple[Tensor, ...]:
        """V and F of rows (n,) of a parameter, (n, columns) float32."""
        return tuple(weight[rows] for weight in self._weights[name])

    def product(self, name: str, left: Tensor, right: Tensor) -> bool:
        kernel = gradient_kernel(left.device)
        if kernel is None:
            return False
        linear, quadratic, norms = kernel.terms(left, right, *self._pair(name), norms=self._with_norms)
        self.linear += linear
        self.quadratic += quadratic
        if self.norms is not None and norms is not None:
            self.norms += norms
        return True

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        v, f = (weight[row : row + block.shape[1]] for weight in self._pair(name))
        samples = slice(sample, sample + len(block))
        if self._product.numel() < block.numel() or self._product.device != block.device:
            self._product = torch.empty(block.numel(), device=block.device)
        # Products are summed by torch.sum, pairwise: a dot product would spare a pass over the block, but accumulates
        # naively in float32 and loses two digits over so many elements, most of which are tiny.
        product = torch.mul(block, v, out=self._product[: block.numel()].view_as(block))
        self.linear[samples] += product.flatten(1).sum(dim=1).double()
        squares = block.square_()
        if self.norms is not None:
            self.norms[samples] += squares.flatten(1).sum(dim=1).double()
        self.quadratic[samples] += squares.mul_(f).flatten(1).sum(dim=1).double()

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor, taken: Tensor | None = None) -> None:
        v, f = self._pair_rows(name, rows)
        squares = with_taken(values, taken)
        samples = samples.to(self.linear.device)
        for total, products in ((self.linear, values * v), (self.quadratic, squares * f), (self.norms, squares)):
            if total is not None:
                total.index_add_(0, samples, products.sum(dim=1).to(total))


class SquaredGradients:
    """Σ_s w_s g_s² over all batches, in `totals`: float32, by name, shaped as the parameter.

    `weights`: (batch,), w of the batch to come; `squares`: (batch,) float64, w_s ‖g_s‖² of the last batch.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.totals = {
            name: torch.zeros(parameter.shape, dtype=torch.float32, device=parameter.device)
            for name, parameter in parameters.items()
        }
        self.weights: Tensor | None = None
        self.squares = torch.empty(0)
        self._weights = torch.empty(0)

    def start(self, batch: int, device: torch.device) -> None:
        self.squares = torch.zeros(batch, dtype=torch.float64, device=device)
        self._weights = torch.ones(batch, device=device) if self.weights is None else self.weights.to(device).float()

    def product(self, name: str, left: Tensor, right: Tensor) -> bool:
        kernel = gradient_kernel(left.device)
        if kernel is None:
            return False
        self.squares += kernel.add_squares(left, right, self._weights, as_matrix(self.totals[name]))
        return True

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        samples = slice(sample, sample + len(block))
        weighted = block.square_().mul_(self._weights[samples, None, None].to(block))
        self.squares[samples] += weighted.sum(dim=(1, 2)).to(self.squares)
        as_matrix(self.totals[name])[row : row + block.shape[1]] += weighted.sum(dim=0)

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor, taken: Tensor | None = None) -> None:
        weighted = with_taken(values, taken) * self._weights.to(values)[samples].unsqueeze(1)
        self.squares.index_add_(0, samples.to(self.squares.device), weighted.sum(dim=1).to(self.squares))
        total = as_matrix(self.totals[name])
        total.index_add_(0, rows, weighted)
        if taken is not None:
            # Where both parts cancel, rounding may leave less than nothing.
            total[rows] = total[rows].clamp(min=0)


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

    def product(self, name: str, left: Tensor, right: Tensor) -> bool:  # noqa: ARG002
        return False

    def dense(self, name: str, sample: int, row: int, block: Tensor) -> None:
        u, w = self._vectors(torch.arange(row, row + block.shape[1], device=block.device), block)
        projection = (block @ w) @ u
        self._totals(name)[sample : sample + len(block)] += self._pair(block.square().sum(dim=(1, 2)), projection)

    def sparse(self, name: str, samples: Tensor, rows: Tensor, values: Tensor, taken: Tensor | None = None) -> None:
        assert taken is None, "products are not taken"
        u, w = self._vectors(rows, values)
        pairs = self._pair(values.square().sum(dim=1), (values @ w) * u)
        self._totals(name).index_add_(0, samples.cpu(), pairs)

    def agreement(self, other: "Signature", names: Collection[str], dtype: torch.dtype) -> dict[str, bool]:
        """Whether both saw the same gradient, for every parameter of `names`, to the precision of `dtype`.

        A gradient that is rounding noise (0 in exact arithmetic) is judged against the largest one of its sample.
        Samples whose gradient is not finite cannot be compared and are passed over.
        """
        zero = torch.zeros(self._batch, 2, dtype=torch.float64)
        norms = {name: other.values.get(name, zero)[:, 0].sqrt() for name in names}
        largest = torch.stack(list(norms.values())).amax(dim=0) if norms else zero[:, 0]
        result = {}
        relative, noise = (1e-3, 1e-6) if dtype in (torch.float32, torch.float64) else (5e-2, 1e-2)
        for name in names:
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
