"""Compiled kernels that form a per-sample weight gradient a tile at a time and reduce it before it reaches memory.

They are chosen where they apply; the reductions in torch (`reducers.py`) are the reference that they equal.
"""

from typing import Protocol

import torch
from torch import Tensor

from graceful_forgetting.confidence.kernels.cpu import tile_kernel


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
    return tile_kernel() if device.type == "cpu" else None
