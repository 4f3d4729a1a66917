"""Exact scoring on a GPU against a plain forward and backward, and where its time goes.

    python evidence/speed/gpu_scoring.py --model_shape llama-3.2-1b --batch_size 16 --tokens 256 --dtype bfloat16
    python evidence/speed/gpu_scoring.py --model_shape tiny --batch_size 2 --tokens 16 --dtype float32 --device cpu

Three tables, written as JSON as well: every method, interleaved (time over that of forward + backward in the same
repetition; memory that a call adds; error against one backward a sample of the same weights in float32); the engine's
kernels by shape of weight, beside the weight gradient that autograd would have computed; and bytes to and from device
memory and floating-point operations, counted from shapes. Weights and tokens are random. A method that does not run,
for want of memory say, has the reason in place of numbers. Without a GPU the engine takes its path for CPUs, and
kernels are not measured.
"""

import argparse
import gc
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from graceful_forgetting.gradients.kernels import gpu
from graceful_forgetting.gradients.oracle import ConfidenceValues
from graceful_forgetting.lab.bench.architectures import largest_error
from graceful_forgetting.lab.bench.confidence import UNIT, interleaved
from graceful_forgetting.lab.bench.methods import (
    Run,
    Setting,
    engine,
    one_backward_a_sample,
    plain,
    sampled_fisher,
    vmap_grad,
)
from graceful_forgetting.results.provenance import collect_hardware, package_versions
from graceful_forgetting.results.text import size
from graceful_forgetting.results.text_tables import aligned
from graceful_forgetting.runtime.artifacts import write_json

# Llama-3.2-1B: Meta's config.json on the hub.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
        "tie_word_embeddings": True,
    },
    "tiny": {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    },
}


@dataclass(frozen=True)
class DeviceSetting(Setting):
    """A row of the benchmark on a device: samples `first` and on of a batch, for a model in `SHAPES`."""

    shape: str = "tiny"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    first: int = 0

    def model(self) -> PreTrainedModel:
        """Random weights, rounded to bfloat16, so that every type has the same."""
        torch.manual_seed(self.seed)
        with torch.device(self.device):
            model = LlamaForCausalLM(LlamaConfig(**SHAPES[self.shape]))
        return model.to(torch.bfloat16).to(self.dtype).eval()

    def rows(self) -> Dataset:
        """Random tokens, tokenised."""
        generator = torch.Generator().manual_seed(self.seed)
        vocabulary = SHAPES[self.shape]["vocab_size"]
        ids = torch.randint(vocabulary, (self.first + self.batch_size, self.tokens), generator=generator)[self.first :]
        return Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})

    def batch(self) -> dict[str, Tensor]:
        """The rows as one batch on the device; nothing is padded."""
        return {name: tensor.to(self.device) for name, tensor in super().batch().items()}

    def weights(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """V and F ≥ 0 in float32 on the device, made once: every method is to read the same."""
        key = (self.shape, self.device, self.seed)
        if key not in _WEIGHTS:
            generator = torch.Generator(self.device).manual_seed(self.seed + 1)
            shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
            draw: Sequence[Callable[..., Tensor]] = (torch.randn, torch.rand)
            linear, quadratic = (
                {n: f(s, generator=generator, device=self.device) for n, s in shapes.items()} for f in draw
            )
            _WEIGHTS[key] = (linear, quadratic)
        return _WEIGHTS[key]


_WEIGHTS: dict[tuple[str, str, int], tuple[dict[str, Tensor], dict[str, Tensor]]] = {}


def engine_without_kernels(setting: DeviceSetting) -> Run:
    """The engine's torch path on a GPU."""
    with mock.patch.object(gpu, "available", return_value=False):
        inner = engine(setting)

    def run() -> ConfidenceValues | None:
        with mock.patch.object(gpu, "available", return_value=False):
            return inner()

    return run


@dataclass(frozen=True)
class _Part(DeviceSetting):
    """A part of a batch, for a model that is there already."""

    built: PreTrainedModel | None = None

    def model(self) -> PreTrainedModel:
        assert self.built is not None
        return self.built


def vmap_in_parts(setting: DeviceSetting, samples: int = 2) -> Run:
    """`vmap(grad)` over a few samples at a time: the per-sample gradients of a whole batch are larger than a GPU."""
    whole = _Part(**vars(setting), built=setting.model())
    starts = range(0, setting.batch_size, samples)
    parts = [replace(whole, first=start, batch_size=min(samples, setting.batch_size - start)) for start in starts]
    runs = [vmap_grad(part) for part in parts]
    return lambda: ConfidenceValues(*(torch.cat(values) for values in zip(*(run() for run in runs), strict=True)))


METHODS: dict[str, Callable[[DeviceSetting], Run]] = {
    UNIT: plain,
    "engine": engine,
    "engine, Fisher": sampled_fisher,
    "engine, torch path": engine_without_kernels,
    "one backward a sample": one_backward_a_sample,
    "vmap(grad), 2 at a time": vmap_in_parts,
    "vmap(grad)": vmap_grad,
}


def measure(setting: DeviceSetting, repetitions: int) -> list[dict[str, Any]]:
    """Every method's first call, then `repetitions` interleaved ones."""
    expected = one_backward_a_sample(replace(setting, dtype=torch.float32))()
    assert expected is not None
    expected = ConfidenceValues(*(value.cpu() for value in expected))
    _release(setting)
    runs: dict[str, Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, method in METHODS.items():
        if name == "engine, torch path" and setting.device == "cpu":
            continue
        row: dict[str, Any] = {"method": name}
        rows[name] = row
        try:
            runs[name] = method(setting)
            row["first_seconds"], values = _timed(runs[name], setting)
            row["peak_bytes"] = _peak_bytes(runs[name], setting)
        except Exception as error:  # a peer may fail in any way; that it does is the result
            runs.pop(name, None)
            row["failure"] = f"{type(error).__name__}: {error}".splitlines()[0]
            values = None
        _release(setting)
        if values is not None:
            on_cpu = ConfidenceValues(*(value.cpu() for value in values))
            row["error"] = largest_error(on_cpu, expected)
            row["rank_correlation"] = float(_rank_correlation(on_cpu.quadratic, expected.quadratic))
    for name, found in interleaved(runs, repetitions, partial(_timed, setting=setting)).items():
        rows[name].update(found)
    runs.clear()
    _release(setting)
    return list(rows.values())


def measure_kernels(setting: DeviceSetting, repetitions: int) -> list[dict[str, Any]]:
    """Seconds of the kernels and of autograd's weight gradient, for one weight of every shape."""
    rows = []
    for (height, width), count in weight_shapes(setting.shape).items():
        generator = torch.Generator(setting.device).manual_seed(setting.seed)
        shapes = [(setting.batch_size, setting.tokens, size) for size in (height, width)]
        left, right = (
            torch.randn(shape, generator=generator, device=setting.device, dtype=setting.dtype) for shape in shapes
        )
        v, f = (torch.rand(height, width, generator=generator, device=setting.device) for _ in range(2))

        def terms(a: Tensor = left, b: Tensor = right, v: Tensor = v, f: Tensor = f) -> object:
            return gpu.confidence_terms(a, b, v, f)

        def squares(a: Tensor = left, b: Tensor = right, total: Tensor = f) -> object:
            return gpu.add_squares(a, b, total)

        def gradient(a: Tensor = left, b: Tensor = right) -> object:
            return a.flatten(0, 1).T @ b.flatten(0, 1)

        runs: dict[str, Callable[[], object]] = {
            "confidence_terms": terms,
            "add_squares": squares,
            "weight gradient": gradient,
        }
        for run in runs.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repetitions):
            for name, run in runs.items():
                times[name].append(_timed(run, setting)[0])
        medians = {name: statistics.median(seconds) for name, seconds in times.items()}
        rows.append({"rows": height, "columns": width, "count": count, "seconds": medians})
    return rows


def weight_shapes(shape: str) -> Counter[tuple[int, int]]:
    """Weights that are multiplied with, by (rows, columns): how many there are."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape]))
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return Counter((module.out_features, module.in_features) for module in linear)


def count_traffic(shape: str, batch: int, tokens: int, element: int) -> dict[str, Any]:
    """Floating-point operations, and bytes to and from device memory, of what is done with the per-sample gradients.

    Caches are taken to hold one sample's operands and nothing of a gradient's size, so that every operation of the
    torch path reads and writes each G_s: it is written by the product, read and its product with V written and read
    for the linear term, then squared, multiplied by F (each read and written) and read for the quadratic one: nine
    times float32. The operands are converted to float32 there, and V and F read once for every block of samples. The
    kernel reads operands, V and F once and writes two numbers for every sample and tile. The plain backward pass
    reads the operands and writes one gradient of the batch.

    Args:
        element: bytes of an element of activations and weights.
    """
    operations, plain_bytes, kernel_bytes, torch_bytes = 0, 0, 0, 0
    for (height, width), count in weight_shapes(shape).items():
        size, positions = height * width, batch * tokens
        operands = positions * (height + width)
        tiles = -(-height // 128) * -(-width // 128)
        operations += count * 2 * positions * size
        plain_bytes += count * element * (operands + size)
        kernel_bytes += count * (element * operands + 2 * 4 * size + 2 * 2 * 4 * batch * tiles)
        at_once = min(batch, max(1, 2**26 // size))
        torch_bytes += count * (
            (element + 2 * 4) * operands + 9 * 4 * batch * size + 2 * 4 * size * -(-batch // at_once)
        )
    return {
        "operations": operations,
        "bytes": {"weight gradient": plain_bytes, "kernel": kernel_bytes, "torch path": torch_bytes},
    }


def print_tables(result: dict[str, Any]) -> None:
    """The result as text."""
    lines: list[Sequence[str]] = [("method", "ms", "IQR", "x", "memory", "error", "rank corr.", "first call")]
    for row in result["methods"]:
        if "failure" in row:
            lines.append((row["method"], row["failure"][:80]))
            continue
        lower, upper = row["quartiles"]
        memory = "" if row["peak_bytes"] is None else size(row["peak_bytes"])
        error, correlation = (
            ("", "") if "error" not in row else (f"{row['error']:.0e}", f"{row['rank_correlation']:.3f}")
        )
        times = (f"{1e3 * row['seconds']:.1f}", f"{1e3 * lower:.1f}-{1e3 * upper:.1f}", f"{row['ratio']:.2f}")
        lines.append((row["method"], *times, memory, error, correlation, f"{1e3 * row['first_seconds']:.0f} ms"))
    print(aligned(lines), end="\n\n")
    if result["kernels"]:
        names = ("confidence_terms", "add_squares", "weight gradient")
        lines = [("weight", "count", *(head for name in names for head in (f"{name}, ms", "TFLOP/s")))]
        for row in result["kernels"]:
            work = 2 * result["batch_size"] * result["tokens"] * row["rows"] * row["columns"]
            cells = [(f"{1e3 * row['seconds'][n]:.3f}", f"{work / row['seconds'][n] / 1e12:.0f}") for n in names]
            lines.append((f"{row['rows']} x {row['columns']}", str(row["count"]), *(c for pair in cells for c in pair)))
        sums = [1e3 * sum(row["count"] * row["seconds"][n] for row in result["kernels"]) for n in names]
        lines.append(("all", "", *(cell for total in sums for cell in (f"{total:.1f}", ""))))
        print(aligned(lines), end="\n\n")
    traffic = result["traffic"]
    counted = [(name, f"{count / 1e9:.1f}") for name, count in traffic["bytes"].items()]
    operations = ("TFLOP, every way", f"{traffic['operations'] / 1e12:.2f}")
    print(aligned([("of per-sample gradients, counted", "GB"), *counted, operations]), end="\n\n")


def _timed(run: Callable[[], Any], setting: DeviceSetting) -> tuple[float, Any]:
    _synchronise(setting)
    start = time.perf_counter()
    values = run()
    _synchronise(setting)
    return time.perf_counter() - start, values


def _peak_bytes(run: Run, setting: DeviceSetting) -> int | None:
    """Device memory that a call adds; None on a CPU."""
    if setting.device == "cpu":
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def _synchronise(setting: DeviceSetting) -> None:
    if setting.device != "cpu":
        torch.cuda.synchronize()


def _release(setting: DeviceSetting) -> None:
    gc.collect()
    if setting.device != "cpu":
        torch.cuda.empty_cache()


def _rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    ranks = torch.stack([values.argsort().argsort().double() for values in (first, second)])
    return torch.corrcoef(ranks)[0, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--batch_size", type=int, default=16, help="samples; 2 or more")
    parser.add_argument("--tokens", type=int, default=256, help="of every sample; all count")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repetitions", type=int, default=9, help="2 or more")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    for name in ("batch_size", "repetitions"):
        if getattr(arguments, name) < 2:
            parser.error(f"--{name} is {getattr(arguments, name)}; it must be 2 or more")
    dtype = torch.float32 if arguments.dtype == "float32" else torch.bfloat16
    setting = DeviceSetting(
        tokens=arguments.tokens,
        prompt_tokens=0,
        batch_size=arguments.batch_size,
        tied=SHAPES[arguments.model_shape]["tie_word_embeddings"],
        shape=arguments.model_shape,
        device=arguments.device,
        dtype=dtype,
    )
    kernels = gpu.triton_kernel(torch.device(setting.device)) is not None
    result = {
        "model_shape": setting.shape,
        "batch_size": setting.batch_size,
        "tokens": setting.tokens,
        "dtype": arguments.dtype,
        "device": setting.device,
        "kernels_available": kernels,
        "hardware": asdict(collect_hardware()),
        "platform": platform.platform(),
        "versions": package_versions(),
        "repetitions": arguments.repetitions,
        "traffic": count_traffic(setting.shape, setting.batch_size, setting.tokens, dtype.itemsize),
        "methods": measure(setting, arguments.repetitions),
        "kernels": measure_kernels(setting, arguments.repetitions) if kernels else [],
    }
    print_tables(result)
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
