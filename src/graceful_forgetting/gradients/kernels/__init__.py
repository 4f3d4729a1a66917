"""Compiled kernels that form a per-sample weight gradient a tile at a time and reduce it before it reaches memory.

They are chosen where they apply and agree with torch (`agreement.py`); the reductions in torch (`reducers.py`) are the
reference that they equal.
"""

import torch

from graceful_forgetting.gradients.kernels.agreement import GradientKernel
from graceful_forgetting.gradients.kernels.cpu import tile_kernel
from graceful_forgetting.gradients.kernels.gpu import triton_kernel

__all__ = ["GradientKernel", "gradient_kernel"]


def gradient_kernel(device: torch.device) -> GradientKernel | None:
    """The kernel for tensors on `device`; None where there is none."""
    return tile_kernel() if device.type == "cpu" else triton_kernel(device)
