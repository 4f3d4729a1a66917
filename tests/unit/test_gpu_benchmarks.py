"""What can be known of the GPU kernels without a GPU: that they compile, and what they need and move."""

import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "evidence" / "speed"


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_compile_and_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen tile sizes need no more registers and shared memory than GPUs have: GeForce 40, and H100."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    options = ["--chosen", "--dtype", "bfloat16", "--capability", "8.9", "9.0"]
    run("gpu_tilings.py", [*options, "--output", str(tmp_path / "out.json")], monkeypatch)
    available = {"8.9": 99 * 2**10, "9.0": 227 * 2**10}
    rows = [row for row in json.loads((tmp_path / "out.json").read_text())["rows"] if "capability" in row]
    assert {(row["kernel"], row["capability"]) for row in rows} == {
        (kernel, capability) for kernel in ("confidence_terms", "add_squares") for capability in available
    }
    for row in rows:
        assert row["spilled_bytes"] == 0
        assert row["shared_bytes"] <= available[row["capability"]]
        # One program at least fits a processor's 65,536 registers.
        assert row["registers"] * 32 * row["warps"] <= 2**16


def test_scoring_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model_shape", "tiny", "--batch_size", "3", "--tokens", "8", "--dtype", "float32", "--device", "cpu"]
    run("gpu_scoring.py", [*options, "--repetitions", "2", "--output", str(tmp_path / "out.json")], monkeypatch)
    rows = {row["method"]: row for row in json.loads((tmp_path / "out.json").read_text())["methods"]}
    assert rows["forward + backward"]["ratio"] == 1
    printed = capsys.readouterr().out
    for name in ("engine", "vmap(grad)", "vmap(grad), 2 at a time"):
        assert rows[name]["error"] < 1e-5
        assert f"{name} " in printed


def test_bytes_that_gradients_move() -> None:
    count = runpy.run_path(str(BENCHMARKS / "gpu_scoring.py"))["count_traffic"]
    parameters = 1_235_814_400 - 33 * 2048  # of Llama-3.2-1B, without its norms
    traffic = count("llama-3.2-1b", batch=16, tokens=256, element=2)
    assert traffic["operations"] == 2 * 16 * 256 * parameters
    gradients = 16 * parameters * 4
    assert traffic["bytes"]["torch path"] > 9 * gradients
    weights = 2 * 4 * parameters
    assert weights < traffic["bytes"]["kernel"] < weights + gradients / 9
