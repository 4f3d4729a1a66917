"""Two processes under DDP, with half of each batch, have the committed losses: see tests/invariant/trajectories.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from graceful_forgetting.launching import find_config

INVARIANT = Path(__file__).parents[1] / "invariant"


def test_two_processes_have_the_committed_losses(tmp_path: Path, python: Any) -> None:
    launch = ("-m", "accelerate.commands.launch", "--config_file", str(find_config("ddp")))
    python(*launch, str(INVARIANT / "trajectories.py"), str(tmp_path))
    found = json.loads((tmp_path / "trajectories.json").read_text())
    expected = json.loads((INVARIANT / "trajectories.json").read_text())
    assert found.keys() == expected.keys()
    for name, entries in expected.items():
        assert found[name] == [pytest.approx(entry, rel=2e-3) for entry in entries]
