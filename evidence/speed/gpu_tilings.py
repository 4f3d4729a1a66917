"""Tile sizes of the GPU kernels: registers, spills and shared memory of each, and its time where there is a GPU.

    python evidence/speed/gpu_tilings.py [--dtype bfloat16] [--capability 8.0 9.0] [--chosen] [--output tilings.json]

The first part needs no GPU: Triton and the assembler that comes with it compile the kernels for each compute
capability. A spill is memory that every thread needs beside its registers. With a GPU the kernels are also timed
with every tiling, interleaved, on the largest weight of a block of Llama-3.2-1B. What `kernels/gpu.py` uses is marked
with a star; `--chosen` leaves out the rest.
"""

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from graceful_forgetting.gradients.kernels import gpu
from graceful_forgetting.gradients.kernels.gpu import BAND, Tiling, add_squares, confidence_terms, tiling_for
from graceful_forgetting.gradients.kernels.triton_tiles import add_squares_kernel, confidence_terms_kernel
from graceful_forgetting.runtime.artifacts import write_json

KERNELS = {"confidence_terms": confidence_terms_kernel, "add_squares": add_squares_kernel}
TILINGS = [
    Tiling(64, 64, 32, warps=4, stages=3),
    Tiling(64, 64, 64, warps=4, stages=3),
    Tiling(64, 128, 32, warps=4, stages=3),
    Tiling(64, 128, 32, warps=8, stages=3),
    Tiling(64, 128, 64, warps=8, stages=3),
    Tiling(128, 128, 32, warps=8, stages=3),
    Tiling(128, 128, 32, warps=8, stages=4),
    Tiling(128, 128, 64, warps=8, stages=3),
    Tiling(128, 128, 64, warps=8, stages=4),
    Tiling(128, 256, 64, warps=8, stages=3),
]
_TYPES = {"bfloat16": (torch.bfloat16, "bf16"), "float32": (torch.float32, "fp32")}


def compiled(kernel: str, tiling: Tiling, dtype: str, capability: tuple[int, int]) -> CompiledKernel:
    """A kernel as it is compiled for contiguous operands whose sizes are multiples of 16."""
    function = KERNELS[kernel]
    constants = {
        "ROWS": tiling.rows,
        "COLUMNS": tiling.columns,
        "POSITIONS": tiling.positions,
        "BAND": BAND,
        "PRECISION": "tf32x3",
        "WIDEN": False,
        "left_row": 1,
        "right_column": 1,
    }
    varying = ("batch", "positions", "samples_each")
    numbers = (*varying, "rows", "columns", "left_sample", "left_position", "right_sample", "right_position")
    types = dict.fromkeys(constants, "constexpr") | dict.fromkeys(numbers, "i32")
    types |= dict.fromkeys(("left", "right"), f"*{_TYPES[dtype][1]}")
    signature = {name: types.get(name, "*fp32") for name in function.arg_names}
    divisible = [name for name in function.arg_names if name not in constants and name not in varying]
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(function.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    return triton.compile(source, target=target, options={"num_warps": tiling.warps, "num_stages": tiling.stages})


def resources(kernel: CompiledKernel) -> dict[str, int]:
    """Registers a thread, bytes of spills a thread and bytes of shared memory a program."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", told.stdout + told.stderr)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {told.stdout + told.stderr}")
    return {"registers": int(found[1]), "spilled_bytes": int(found[2]), "shared_bytes": kernel.metadata.shared}


def timed(tilings: list[Tiling], dtype: torch.dtype, repetitions: int) -> dict[tuple[str, Tiling], float]:
    """Median seconds by kernel and tiling for 16 samples of 256 positions and a weight (8192, 2048)."""
    left, right = (torch.randn(16, 256, size, device="cuda", dtype=dtype) for size in (8192, 2048))
    v, f = (torch.rand(8192, 2048, device="cuda") for _ in range(2))
    runs: dict[tuple[str, Tiling], Callable[[], object]] = {}
    for tiling in tilings:
        runs["confidence_terms", tiling] = partial(confidence_terms, left, right, v, f, tiling)
        runs["add_squares", tiling] = partial(add_squares, left, right, f, None, tiling)
    for key, run in list(runs.items()):
        try:
            run()
        except Exception as error:  # too much shared memory for this GPU, say
            print(key, error)
            del runs[key]
    times: dict[tuple[str, Tiling], list[float]] = {key: [] for key in runs}
    for _ in range(repetitions):
        for key, run in runs.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times[key].append(time.perf_counter() - start)
    return {key: statistics.median(seconds) for key, seconds in times.items()}


def _capability(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=_TYPES, nargs="+", default=list(_TYPES))
    known = ("8.0", "8.9", "9.0", "10.0", "12.0")
    parser.add_argument("--capability", type=_capability, nargs="+", default=[_capability(text) for text in known])
    parser.add_argument("--chosen", action="store_true")
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with_gpu = torch.cuda.is_available() and gpu.triton_kernel(torch.device("cuda")) is not None
    rows: list[dict[str, Any]] = []
    for dtype in arguments.dtype:
        seconds = timed(TILINGS, _TYPES[dtype][0], arguments.repetitions) if with_gpu else {}
        for (kernel, tiling), median in seconds.items():
            print(f"{kernel:<18}{dtype:<10}{tiling}  {1e3 * median:.3f} ms")
            rows.append({"kernel": kernel, "dtype": dtype, **asdict(tiling), "seconds": median})
        for capability in arguments.capability:
            chosen = tiling_for(_TYPES[dtype][0], capability)
            for tiling in [chosen] if arguments.chosen else TILINGS:
                for kernel in KERNELS:
                    used = resources(compiled(kernel, tiling, dtype, capability))
                    name = ".".join(map(str, capability))
                    rows.append({"kernel": kernel, "dtype": dtype, "capability": name, **asdict(tiling), **used})
                    star = "*" if tiling == chosen else " "
                    print(f"{kernel:<18}{dtype:<10}{name:>5} {star} {tiling}  {used}", flush=True)
    if arguments.output is not None:
        write_json(arguments.output, {"triton": triton.__version__, "rows": rows})


if __name__ == "__main__":
    main()
