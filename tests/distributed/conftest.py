"""Running Python in processes of their own, which accelerate may make several of, on the CPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ON_CPU = Path(__file__).parent / "fsdp_on_cpu"


@pytest.fixture
def python() -> Callable[..., str]:
    """Runs `python <arguments>` to its end; returns what it printed."""

    def run(*arguments: str) -> str:
        paths = [str(ON_CPU), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=500,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run
