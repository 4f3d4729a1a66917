"""However a run is split, interrupted or compiled, its losses are the committed ones: see `trajectories.py`."""

import json
from pathlib import Path

import pytest
import torch
from trajectories import FILE, RUNS, Trajectory, train

# Rounding grows along a run, and is not the same on every processor. AdamW does not magnify it: an element whose step
# is left to rounding has a gradient of that size, so that the losses hardly depend on it, and simulated processors
# (tests/processors.py) are within 3e-6 of the file. A wrong weight of one row is ten times what is allowed.
TOLERANCE = 2e-3


def assert_committed(name: str, found: Trajectory) -> None:
    expected: Trajectory = json.loads(FILE.read_text())[name]
    assert [entry["step"] for entry in found] == list(range(1, 9))
    assert sum("unlearn_loss" in entry for entry in found) == 3
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=TOLERANCE)


@pytest.mark.parametrize("name", RUNS)
def test_one_large_batch(tmp_path: Path, name: str) -> None:
    assert_committed(name, train(name, tmp_path))


@pytest.mark.parametrize("name", RUNS)
def test_eight_passes_of_one_row(tmp_path: Path, name: str) -> None:
    assert_committed(name, train(name, tmp_path, per_device=1, passes=8))


@pytest.mark.parametrize("name", RUNS)
def test_resumed(tmp_path: Path, name: str) -> None:
    whole = train(name, tmp_path)
    resumed = train(name, tmp_path, resume=tmp_path / "checkpoint-4")
    assert resumed == whole
    assert_committed(name, resumed)


@pytest.mark.parametrize("name", RUNS)
def test_checkpointed_activations(tmp_path: Path, name: str) -> None:
    assert_committed(name, train(name, tmp_path, activation_checkpointing=True, gradient_checkpointing=True))


def test_compiled(tmp_path: Path) -> None:
    """With the graphs of both kinds of update traced; what a backend makes of them is PyTorch's."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    assert_committed("full", train("full", tmp_path, torch_compile=True, torch_compile_backend="eager"))
    assert counters["stats"]["unique_graphs"] > 1
    torch._dynamo.reset()
