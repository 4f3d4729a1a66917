"""Whether a kernel is right on the device that it is to run on: compared with torch there, before any use."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor


class GradientKernel(Protocol):
    """Reduces G_s = Σ_t left[s, t] right[s, t]ᵀ; left (batch, positions, rows), right (batch, positions, columns)."""

    def terms(
        self, left: Tensor, right: Tensor, v: Tensor, f: Tensor, *, norms: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Σ V G_s, Σ F G_s² and, if asked for, Σ G_s², each (batch,) float64; V and F: (rows, columns) float32."""

    def add_squares(self, left: Tensor, right: Tensor, weights: Tensor, totals: Tensor) -> Tensor:
        """Add Σ_s w_s G_s² to `totals`, (rows, columns) float32; returns w_s Σ G_s², (batch,) float64."""


# Batch, positions, rows and columns: they leave rows, columns and vectors over; the second has several tiles.
_SHAPES = ((3, 5, 13, 83), (5, 70, 130, 150))
# Of the largest value of a kind. Kernels accumulate in float32; a wrong sum is wrong in its first digits.
_TOLERANCE = 1e-5


def disagreement(kernel: GradientKernel, device: torch.device, dtypes: Sequence[torch.dtype]) -> str | None:
    """What the kernel computes otherwise than torch does in float64 on `device`; None if nothing."""
    for dtype in dtypes:
        for shape in _SHAPES:
            for what, found, wanted in _compared(kernel, device, dtype, shape):
                allowed = _TOLERANCE * float(wanted.abs().max())
                if not torch.allclose(found.double(), wanted, rtol=_TOLERANCE, atol=allowed):
                    return f"{what} of {shape[0]} gradients of {shape[2]} x {shape[3]} in {dtype}"
    return None


def _compared(
    kernel: GradientKernel, device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    batch, positions, rows, columns = shape
    generator = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device)

    left, right = drawn(batch, positions, rows).to(dtype), drawn(batch, positions, columns).to(dtype)
    v, f, weights = drawn(rows, columns), drawn(rows, columns).abs(), drawn(batch).abs()
    gradients = torch.einsum("btr,btc->brc", left.double(), right.double())
    squares = gradients.square()
    linear, quadratic, norms = kernel.terms(left, right, v, f, norms=True)
    assert norms is not None
    yield "Σ V g", linear, (gradients * v).sum(dim=(1, 2))
    yield "Σ F g²", quadratic, (squares * f).sum(dim=(1, 2))
    yield "Σ g²", norms, squares.sum(dim=(1, 2))
    totals = torch.zeros(rows, columns, device=device)
    weighted = squares * weights[:, None, None]
    yield "the weighted Σ g²", kernel.add_squares(left, right, weights, totals), weighted.sum(dim=(1, 2))
    yield "the squares", totals, weighted.sum(dim=0)
