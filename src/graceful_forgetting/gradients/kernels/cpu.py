"""The CPU kernel: `tiles.c` behind tensors."""

import ctypes
import functools
import logging
import os

import torch
from torch import Tensor

from graceful_forgetting.gradients.kernels.agreement import disagreement
from graceful_forgetting.gradients.kernels.build import NoCompilerError, load_library

logger = logging.getLogger(__name__)

SWITCH = "GRACEFUL_CPU_KERNEL"


class _Factors(ctypes.Structure):
    """`Factors` of tiles.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "positions", "rows", "columns")),
        *((name, ctypes.c_void_p) for name in ("left", "right")),
        *((name, ctypes.c_int64) for name in ("left_sample", "left_position", "right_sample", "right_position")),
    )


class TileKernel:
    """Reduces per-sample gradients G_s = Σ_t left[s, t] right[s, t]ᵀ without forming more than a tile of one.

    All tensors are on the CPU; left is (batch, positions, rows), right (batch, positions, columns). Products are
    float32, sums beyond a tile float64; results do not depend on the number of threads, nor a sample's on the others.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.graceful_scratch.restype = ctypes.c_int64
        # Kept from call to call: memory fresh from the system costs more than what is written to it.
        self._memory = torch.empty(0, dtype=torch.float64)

    def terms(
        self, left: Tensor, right: Tensor, v: Tensor, f: Tensor, *, norms: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Σ V G_s, Σ F G_s² and, if asked for, Σ G_s², each (batch,) float64; V and F: (rows, columns) float32."""
        linear, quadratic, norm = (left.new_empty(len(left), dtype=torch.float64) for _ in range(3))
        v, f = v.contiguous(), f.contiguous()
        self._call(self._library.graceful_terms, left, right, v, f, linear, quadratic, norm if norms else None)
        return linear, quadratic, norm if norms else None

    def add_squares(self, left: Tensor, right: Tensor, weights: Tensor, totals: Tensor) -> Tensor:
        """Add Σ_s w_s G_s² to `totals`, (rows, columns) float32, contiguous; returns w_s Σ G_s², (batch,) float64."""
        squares = left.new_empty(len(left), dtype=torch.float64)
        self._call(self._library.graceful_squares, left, right, weights.float().contiguous(), totals, squares)
        return squares

    def _call(self, function: "ctypes._NamedFuncPointer", left: Tensor, right: Tensor, *others: Tensor | None) -> None:
        left, right = (_rows_contiguous(factor) for factor in (left, right))
        (samples, positions, rows), columns = left.shape, right.shape[2]
        factors = _Factors(
            *(samples, positions, rows, columns, left.data_ptr(), right.data_ptr()),
            *(left.stride(0), left.stride(1), right.stride(0), right.stride(1)),
        )
        threads = torch.get_num_threads()
        needed = self._library.graceful_scratch(ctypes.byref(factors), ctypes.c_int64(threads))
        if self._memory.nbytes < needed:
            self._memory = torch.empty(-(-needed // 8), dtype=torch.float64)
        pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (*others, self._memory)]
        function(ctypes.byref(factors), *pointers, ctypes.c_int64(threads))


def _rows_contiguous(factor: Tensor) -> Tensor:
    factor = factor.float()
    return factor if factor.stride(2) == 1 or factor.shape[2] == 1 else factor.contiguous()


@functools.cache
def tile_kernel() -> TileKernel | None:
    """The kernel, compiled on first use; None, announced once, where that is not possible.

    `GRACEFUL_CPU_KERNEL=0` in the environment turns it off; the name of a processor in place of 0, such as
    `x86-64-v3`, has it compiled for that one.
    """
    processor = os.environ.get(SWITCH) or "native"
    if processor == "0":
        return None
    try:
        kernel = TileKernel(load_library(processor))
    except NoCompilerError as error:
        logger.warning("Scoring on the CPU without its compiled kernel, which is slower: %s", error)
        return None
    wrong = disagreement(kernel, torch.device("cpu"), [torch.float32])
    if wrong is not None:
        logger.warning("Scoring on the CPU without its compiled kernel, which is slower: it computes %s wrong", wrong)
        return None
    return kernel
