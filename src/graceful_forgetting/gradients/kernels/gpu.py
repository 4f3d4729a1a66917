"""Reducing G_s = Σ_t left[s, t] right[s, t]ᵀ of every sample s on a GPU; no G_s reaches device memory.

The torch path writes each G_s and reads it back for every operation on it; here a tile of it lives in registers until
it is reduced (`triton_tiles.py`). What reaches device memory is a number for every sample and tile.

Numerics. Tiles are accumulated in float32: by matrix units of bfloat16 or float16 where left and right are of such a
type, else by three TF32 products for each float32 product (relative error about 2⁻²², near that of float32). Elements
of a tile are summed in float32 and tiles in float64, without atomics, in an order fixed by shapes, types and the kind
of GPU: the same input gives the same bits. That is why tile sizes come from a table and not from timings at run time,
which differ from run to run; `evidence/speed/gpu_tilings.py` compares them.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graceful_forgetting.gradients.kernels.agreement import disagreement

logger = logging.getLogger(__name__)

_NATIVE = (torch.float32, torch.bfloat16, torch.float16)
# Consecutive tiles go down this many rows of tiles, then on to the next column.
BAND = 8
# What a matrix unit takes at least, in every dimension.
_LEAST = 16
# Of NVIDIA GPUs: the first with matrix units for bfloat16 and TF32. Compiled for older ones the kernels spill.
_LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Tiling:
    """Size of a tile of the weight, positions multiplied at once, and what Triton compiles for.

    warps: that share a tile. stages: blocks of positions on their way from memory.
    """

    rows: int
    columns: int
    positions: int
    warps: int
    stages: int

    def tiles(self, rows: int, columns: int) -> int:
        """Number of tiles that cover a weight (rows, columns)."""
        return -(-rows // self.rows) * -(-columns // self.columns)

    def fitted(self, rows: int, columns: int, positions: int) -> "Tiling":
        """The same, no larger than a weight (rows, columns) and a sample of `positions` positions need."""
        height, width = (min(mine, _at_least(size)) for mine, size in ((self.rows, rows), (self.columns, columns)))
        warps = self.warps if height * width > 64 * 64 else min(self.warps, 4)
        return Tiling(height, width, min(self.positions, _at_least(positions)), warps, self.stages)


class TritonKernel:
    """The functions below as a `GradientKernel`."""

    def terms(
        self, left: Tensor, right: Tensor, v: Tensor, f: Tensor, *, norms: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        linear, quadratic = confidence_terms(left, right, v, f)
        # Only Polyak's rule asks for it: once more through the product, rather than a third sum in every tile.
        return linear, quadratic, confidence_terms(left, right, v, torch.ones_like(f))[1] if norms else None

    def add_squares(self, left: Tensor, right: Tensor, weights: Tensor, totals: Tensor) -> Tensor:
        return add_squares(left, right, totals, weights)


def triton_kernel(device: torch.device) -> TritonKernel | None:
    """The kernel where `device` is a GPU on which it agrees with torch, found out once for each and said; else None.

    It needs Triton (part of torch's builds for GPUs), a compiler for C, and on NVIDIA compute capability 8.0.
    """
    if device.type != "cuda":
        return None
    return _compared(torch.cuda.current_device() if device.index is None else device.index)


def confidence_terms(
    left: Tensor, right: Tensor, linear_weight: Tensor, quadratic_weight: Tensor, tiling: Tiling | None = None
) -> tuple[Tensor, Tensor]:
    """⟨V, G_s⟩ and Σ F G_s² of every sample s.

    Args:
        left, right: (batch, positions, rows) and (batch, positions, columns), any strides. Types other than float32,
            bfloat16 and float16, and a mixture of two, are converted to float32.
        linear_weight, quadratic_weight: V and F, (rows, columns); read as they are in float32 and bfloat16.
        tiling: default: by device, type and shape.

    Returns:
        Two tensors (batch,) float64.

    Raises:
        ValueError: shapes that do not match.
    """
    left, right = _operands(left, right)
    weights = {"linear_weight": linear_weight, "quadratic_weight": quadratic_weight}
    batch, positions, rows, columns = _shape(left, right, weights)
    if 0 in (batch, positions, rows, columns):
        return left.new_zeros(batch, dtype=torch.float64), left.new_zeros(batch, dtype=torch.float64)
    from graceful_forgetting.gradients.kernels.triton_tiles import confidence_terms_kernel

    tiling = tiling or _chosen(left, rows, columns)
    tiles = tiling.tiles(rows, columns)
    # A weight of few tiles does not fill the device: its samples are shared out, and V and F read once for each share.
    shares = min(batch, -(-2 * _processors(left.device) // tiles))
    samples_each = -(-batch // shares)
    linear = left.new_empty((batch, tiles), dtype=torch.float32)
    quadratic = torch.empty_like(linear)
    with torch.cuda.device_of(left):
        confidence_terms_kernel[(tiles, -(-batch // samples_each))](
            left,
            right,
            _weight(linear_weight),
            _weight(quadratic_weight),
            linear,
            quadratic,
            batch,
            positions,
            rows,
            columns,
            *left.stride(),
            *right.stride(),
            samples_each,
            **_constants(left, tiling),
        )
    return linear.sum(dim=1, dtype=torch.float64), quadratic.sum(dim=1, dtype=torch.float64)


def add_squares(
    left: Tensor,
    right: Tensor,
    totals: Tensor,
    sample_weights: Tensor | None = None,
    tiling: Tiling | None = None,
) -> Tensor:
    """Add Σ_s w_s G_s² to `totals`, element by element; returns w_s ‖G_s‖² of every sample.

    Args:
        left, right: as in `confidence_terms`.
        totals: (rows, columns) float32, contiguous; changed in place.
        sample_weights: w, (batch,); default: ones.
        tiling: default: by device, type and shape.

    Returns:
        (batch,) float64.

    Raises:
        ValueError: shapes that do not match; totals that are not float32 and contiguous.
    """
    left, right = _operands(left, right)
    batch, positions, rows, columns = _shape(left, right, {"totals": totals})
    if totals.dtype != torch.float32 or not totals.is_contiguous():
        raise ValueError(f"totals is {totals.dtype} with strides {totals.stride()}; it must be float32 and contiguous")
    if sample_weights is None:
        sample_weights = left.new_ones(batch, dtype=torch.float32)
    if sample_weights.shape != (batch,):
        raise ValueError(f"sample_weights has shape {tuple(sample_weights.shape)}; left has {batch} samples")
    if 0 in (batch, positions, rows, columns):
        return left.new_zeros(batch, dtype=torch.float64)
    from graceful_forgetting.gradients.kernels.triton_tiles import add_squares_kernel

    tiling = tiling or _chosen(left, rows, columns, at_least=_processors(left.device))
    tiles = tiling.tiles(rows, columns)
    squares = left.new_empty((batch, tiles), dtype=torch.float32)
    with torch.cuda.device_of(left):
        add_squares_kernel[(tiles,)](
            left,
            right,
            sample_weights.to(left.device, torch.float32).contiguous(),
            totals,
            squares,
            batch,
            positions,
            rows,
            columns,
            *left.stride(),
            *right.stride(),
            **_constants(left, tiling),
        )
    return squares.sum(dim=1, dtype=torch.float64)


def tiling_for(dtype: torch.dtype, capability: tuple[int, int] | None) -> Tiling:
    """Tile sizes for operands of `dtype` on NVIDIA GPUs of a compute capability, or on others (None).

    Set so that a tile of the gradient and the tiles of V and F fit the registers of the warps that share it: with 128 x
    128 in float32, 192 of 255 registers a thread. A larger tile would read its operands less often, but V and F again
    for every sample. The table follows from registers and shared memory as compiled for compute capabilities 8.0 to
    12.0 (`evidence/speed/gpu_tilings.py`), not from timings: it has not been run on a GPU yet.
    """
    if capability is None:
        return Tiling(64, 64, 32, warps=4, stages=2)
    if dtype == torch.float32:
        return Tiling(64, 64, 32, warps=4, stages=3)
    # Hopper and Blackwell's data centre GPUs have more shared memory, from which their matrix units take operands.
    return Tiling(128, 128, 64 if capability[0] in (9, 10) else 32, warps=8, stages=3)


def _chosen(left: Tensor, rows: int, columns: int, *, at_least: int = 1) -> Tiling:
    """Tile sizes for `left` (batch, positions, rows) and a weight (rows, columns).

    at_least: tiles that there should be, at the price of smaller ones, as no two programs can share a tile.
    """
    nvidia = left.is_cuda and torch.version.hip is None
    tiling = tiling_for(left.dtype, torch.cuda.get_device_capability(left.device) if nvidia else None)
    if tiling.tiles(rows, columns) < at_least:
        tiling = replace(tiling, rows=64, columns=64)
    return tiling.fitted(rows, columns, left.shape[1])


@functools.cache
def _compared(index: int) -> TritonKernel | None:
    device, kernel = torch.device("cuda", index), TritonKernel()
    try:
        reason = _too_old(device)
        if reason is None and (wrong := disagreement(kernel, device, _NATIVE)):
            reason = f"it computes {wrong} wrong"
    except Exception as error:  # compilers and drivers fail in many ways; all have the same remedy
        reason = f"it fails: {error}"
    if reason is not None:
        logger.warning("Scoring on %s without its Triton kernel, which is slower: %s", device, reason)
        return None
    logger.info("Scoring on %s with its Triton kernel, which agrees with torch there", device)
    return kernel


def _too_old(device: torch.device) -> str | None:
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return f"compute capability {torch.cuda.get_device_capability(device)} is too old"
    return None


def _operands(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    if left.dtype == right.dtype and left.dtype in _NATIVE:
        return left, right
    return left.float(), right.float()


def _shape(left: Tensor, right: Tensor, weights: Mapping[str, Tensor]) -> tuple[int, int, int, int]:
    if left.dim() != 3 or right.dim() != 3 or left.shape[:2] != right.shape[:2]:
        raise ValueError(
            f"left and right have shapes {tuple(left.shape)} and {tuple(right.shape)}; they must be (batch, positions, "
            "rows) and (batch, positions, columns)"
        )
    rows, columns = left.shape[2], right.shape[2]
    for name, weight in weights.items():
        if weight.shape != (rows, columns):
            raise ValueError(f"{name} has shape {tuple(weight.shape)}; left and right make ({rows}, {columns})")
    return left.shape[0], left.shape[1], rows, columns


def _weight(weight: Tensor) -> Tensor:
    if weight.dtype not in (torch.float32, torch.bfloat16):
        weight = weight.float()
    return weight.contiguous()


def _constants(left: Tensor, tiling: Tiling) -> dict[str, Any]:
    """What a kernel is compiled for."""
    return {
        "ROWS": tiling.rows,
        "COLUMNS": tiling.columns,
        "POSITIONS": tiling.positions,
        "BAND": BAND,
        # AMD's matrix units multiply float32 directly.
        "PRECISION": "tf32x3" if torch.version.hip is None else "ieee",
        "WIDEN": not left.is_cuda,
        "num_warps": tiling.warps,
        "num_stages": tiling.stages,
    }


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4  # Triton's interpreter: any number will do
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _at_least(size: int) -> int:
    """The least power of two that is no smaller than `size` and than a matrix unit."""
    return max(_LEAST, 1 << (size - 1).bit_length())
