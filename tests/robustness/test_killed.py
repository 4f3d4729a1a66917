"""A run that is killed with SIGKILL continues with the next call and ends as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def recipe(tmp_path, make_model, tokenizer, learning, forgetting):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    learning.to_json(tmp_path / "learn.jsonl")
    forgetting.select_columns(["prompt"]).to_json(tmp_path / "forget.jsonl")

    def write(name: str) -> list[str]:
        content = {
            "model_name_or_path": str(tmp_path / "model"),
            "learning_task": str(tmp_path / "learn.jsonl"),
            "forgetting_tasks": [str(tmp_path / "forget.jsonl")],
            "output_dir": str(tmp_path / name),
            "max_steps": 60,
            "save_steps": 5,
            "per_device_train_batch_size": 8,
            "gradient_checkpointing": False,
            "elicitation_max_new_tokens": 4,
            "unlearn_every": 3,
            "forget_fraction": 0.5,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return [sys.executable, "-m", "graceful_forgetting.cli", "train", "--config", str(path)]

    return write


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "the run did not get there in time"
        time.sleep(0.01)


def test_killed_in_training(recipe, tmp_path):
    """In both arms, one after the other: the call that goes on from the first end comes to the second."""
    subprocess.run(recipe("whole"), check=True, capture_output=True, env=ENVIRONMENT, timeout=200)
    command = recipe("killed")
    said = {}
    for arm in ("plain", "lwf"):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT
        )
        work = tmp_path / "killed" / "work" / arm / "seed-42"
        wait_for(lambda work=work: any(work.glob("checkpoint-*/checkpoint.json")), process)
        process.send_signal(signal.SIGKILL)
        said[arm], _ = process.communicate(timeout=60)
        assert not (tmp_path / "killed" / arm / "seed-42").exists()
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT, timeout=200)
    for arm, output in (("plain", said["lwf"]), ("lwf", done.stdout)):
        assert f"{arm}/seed-42: done" in output
        assert "resumed from checkpoint-" in output
    for name in ("plain", "lwf"):
        whole, resumed = (Path(tmp_path / run / name / "seed-42" / "model.safetensors") for run in ("whole", "killed"))
        assert whole.read_bytes() == resumed.read_bytes(), name
    assert not list((tmp_path / "killed").rglob("*.partial-*"))


def test_sigint_keeps_what_is_done(recipe, tmp_path):
    command = recipe("run")
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # Where the tests themselves run in the background, a child would inherit that the signal is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    work = tmp_path / "run" / "work" / "plain" / "seed-42"
    wait_for(lambda: any(work.glob("checkpoint-*/checkpoint.json")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command continues from there" in errors
    assert "Traceback" not in errors
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT, timeout=200)
    assert "resumed from checkpoint-" in done.stdout
