"""Two processes with half of each batch have the committed losses, compiled or not: tests/invariant/trajectories.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from graceful_forgetting.cli.launching import find_config

INVARIANT = Path(__file__).parents[1] / "invariant"
COMPILED = Path(__file__).with_name("compiled_run.py")


def launch(config: str) -> tuple[str, ...]:
    return ("-m", "accelerate.commands.launch", "--config_file", str(find_config(config)))


def assert_committed(found: dict[str, Any]) -> None:
    expected = json.loads((INVARIANT / "trajectories.json").read_text())
    for name, entries in found.items():
        assert entries == [pytest.approx(entry, rel=2e-3) for entry in expected[name]]


@pytest.mark.parametrize(("config", "topology"), [("ddp", "MULTI_CPU"), ("fsdp2", "FSDP")])
def test_two_processes_have_the_committed_losses(tmp_path: Path, python: Any, config: str, topology: str) -> None:
    """With the graphs of both kinds of update traced; what a backend makes of them is PyTorch's."""
    # In one launch, whose imports take longer than its runs.
    plain = ["plain"] if config == "ddp" else []
    python(*launch(config), str(COMPILED), str(tmp_path), *plain)
    if plain:
        found = json.loads((tmp_path / "trajectories.json").read_text())
        assert found.keys() == {"full", "lora"}
        assert_committed(found)
    found = json.loads((tmp_path / "compiled.json").read_text())
    assert found["topology"] == topology
    assert found["graphs"] > 1
    assert_committed({"full": found["losses"]})
