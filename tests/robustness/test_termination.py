"""SIGTERM: a checkpoint after the update, exit code 143; no process outlives the one that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from evidence.reliability.tiny import write_inputs
from graceful_forgetting.cli import main
from graceful_forgetting.runs.training import SavedAtTheEnd
from graceful_forgetting.runtime.termination import (
    EXIT_CODE,
    Terminated,
    arrived,
    end_if_arrived,
    ends_on_sigterm,
    waits_for_update,
)

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def test_ends_at_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), ends_on_sigterm(pytest.fail):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")
    assert signal.getsignal(signal.SIGTERM) is before
    assert not arrived()


def test_waits_for_the_update():
    said = []
    with ends_on_sigterm(said.append):
        with waits_for_update():
            os.kill(os.getpid(), signal.SIGTERM)
            # The parent passes on what the group has heard.
            os.kill(os.getpid(), signal.SIGTERM)
            assert arrived()
        with pytest.raises(Terminated):
            end_if_arrived()
    assert said == ["SIGTERM: a checkpoint is saved after this update, then the run ends"]
    end_if_arrived()


def test_a_run_saves_says_so_and_continues(tmp_path, capfd, monkeypatch):
    """At the third update of plain fine-tuning, whose next checkpoint is due after the fourth."""
    recipe, _ = write_inputs(tmp_path, tmp_path / "out")
    whole = SavedAtTheEnd.on_step_end

    def struck(self, args, state, control, **keywords):
        if state.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        whole(self, args, state, control, **keywords)

    monkeypatch.setattr(SavedAtTheEnd, "on_step_end", struck)
    assert main(["train", "--config", str(recipe)]) == EXIT_CODE == 143
    captured = capfd.readouterr()
    assert "SIGTERM: a checkpoint is saved after this update" in captured.err
    assert "Terminated. Finished stages and checkpoints are kept" in captured.err
    monkeypatch.setattr(SavedAtTheEnd, "on_step_end", whole)
    assert main(["train", "--config", str(recipe)]) == 0
    assert "resumed from checkpoint-3" in capfd.readouterr().out


def alive(tag: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("KILL_TAG") == tag and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def sweep_of_two(grid: Path, tag: str, output: int) -> subprocess.Popen[bytes]:
    """A sweep of two workers that `alive` knows by its tag."""
    return subprocess.Popen(
        [sys.executable, "-m", "graceful_forgetting.cli", "sweep", "--config", str(grid), "--jobs", "2"],
        env={**ENVIRONMENT, "KILL_TAG": tag},
        stdout=output,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_workers_end_with_the_sweep(tmp_path, number, code):
    _, grid = write_inputs(tmp_path, tmp_path / "out")
    content = yaml.safe_load(grid.read_text())
    content["base"]["max_steps"] = 2000
    grid.write_text(yaml.safe_dump(content))
    tag = f"{number}-{os.getpid()}"
    process = sweep_of_two(grid, tag, subprocess.DEVNULL)
    checkpoints = Path(tmp_path, "out", "shared", "work")
    assert wait_for(lambda: len(list(checkpoints.rglob("checkpoint-*"))) > 1, 300)
    assert len(alive(tag)) >= 3
    process.send_signal(number)
    assert process.wait(150) == code
    assert wait_for(lambda: not alive(tag), 60), alive(tag)


def test_a_sweep_whose_output_nobody_reads_ends(tmp_path):
    """As in `graceful sweep ... | head -1`: the pipe is closed when the first cell is to be reported."""
    _, grid = write_inputs(tmp_path, tmp_path / "out")
    tag = f"pipe-{os.getpid()}"
    process = sweep_of_two(grid, tag, subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"4 cells")
    process.stdout.close()
    assert process.wait(300) == 141
    assert wait_for(lambda: not alive(tag), 60), alive(tag)
