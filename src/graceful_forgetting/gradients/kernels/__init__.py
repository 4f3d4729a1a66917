"""Compiled kernels that form a per-sample weight gradient a tile at a time and reduce it before it reaches memory.

They are chosen where they apply; the reductions in torch (`reducers.py`) are the reference that they equal.
"""

from typing import Protocol

import torch
from torch import Tensor

from graceful_forgetting.gradients.kernels import gpu
from graceful_forgetting.gradients.kernels.cpu import tile_kernel


class GradientKernel(Protocol):
    """Reduces G_s = Σ_t left[s, t] right[s, t]ᵀ; left (batch, positions, rows), right (batch, positions, columns)."""

    def terms(
        self, left: Tensor, right: Tensor, v: Tensor, f: Tensor, *, norms: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Σ V G_s, Σ F G_s² and, if asked for, Σ G_s², each (batch,) float64; V and F: (rows, columns) float32."""

    def add_squares(self, left: Tensor, right: Tensor, weights: Tensor, totals: Tensor) -> Tensor:
        """Add Σ_s w_s G_s² to `totals`, (rows, columns) float32; returns w_s Σ G_s², (batch,) float64."""


def gradient_kernel(device: torch.device) -> GradientKernel | None:
    """The kernel for tensors on `device`; None where there is none."""
    if device.type == "cpu":
        return tile_kernel()
    return _TRITON if gpu.available(device) else None


class _TritonKernel:
    """`gpu.py` as a `GradientKernel`."""

    def terms(
        self, left: Tensor, right: Tensor, v: Tensor, f: Tensor, *, norms: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        linear, quadratic = gpu.confidence_terms(left, right, v, f)
        # Only Polyak's rule asks for it: once more through the product, rather than a third sum in every tile.
        return linear, quadratic, gpu.confidence_terms(left, right, v, torch.ones_like(f))[1] if norms else None

    def add_squares(self, left: Tensor, right: Tensor, weights: Tensor, totals: Tensor) -> Tensor:
        return gpu.add_squares(left, right, totals, weights)


_TRITON = _TritonKernel()
