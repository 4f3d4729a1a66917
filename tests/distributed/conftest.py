"""Launches of several processes, as `accelerate launch` and `graceful --accelerate_config` make them, on the CPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graceful_forgetting.launching import find_config

ON_CPU = Path(__file__).parent / "fsdp_on_cpu"


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of a process that may be launched on the CPU, under any configuration."""
    paths = [str(ON_CPU), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="session")
def launch(environment: dict[str, str]) -> Callable[..., None]:
    """Runs a script: in two processes under a configuration of the package, or, without one, in one process."""

    def run(script: Path, arguments: list[str], config: str | None = None) -> None:
        command = [sys.executable]
        if config is not None:
            command += ["-m", "accelerate.commands.launch", "--config_file", str(find_config(config))]
        done = subprocess.run(
            [*command, str(script), *arguments],
            capture_output=True,
            text=True,
            timeout=500,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return run
