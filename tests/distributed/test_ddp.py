"""Two gloo processes on CPU give what one process with the doubled batch gives, learning and unlearning alike."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import json, os, sys
from pathlib import Path
from datasets import Dataset
from transformers import AutoTokenizer
from graceful_forgetting import LWFConfig, LWFTrainer

folder, processes, forgetting = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rows = json.loads((folder / "rows.json").read_text())
output = folder / f"{forgetting}-{processes}"
size = 8 // processes
trainer = LWFTrainer(
    str(folder / "model"),
    LWFConfig(
        output_dir=str(output), max_steps=7, per_device_train_batch_size=size, per_device_unlearn_batch_size=size,
        learning_rate=3e-3, unlearn_every=2, forget_fraction=0.5, elicitation_max_new_tokens=4, logging_steps=1,
        save_strategy="steps", save_steps=4, use_cpu=True, bf16=False, activation_checkpointing=False,
        disable_tqdm=True, **json.loads(sys.argv[4]),
    ),
    train_dataset=Dataset.from_list(rows["learning"]),
    forget_dataset=Dataset.from_list(rows[forgetting]),
    processing_class=AutoTokenizer.from_pretrained(folder / "model"),
)
trainer.train(resume_from_checkpoint=sys.argv[5] if len(sys.argv) > 5 else None)
trainer.save_model(str(output / "final"))
if trainer.is_world_process_zero():
    (output / "log.json").write_text(json.dumps(trainer.state.log_history))
"""


METHODS = {
    "unlearn_schedule": "joint",
    "unlearn_objective": "npo",
    "unlearn_retain_weight": 0.5,
    "unlearn_rescore_every": 3,
    "confidence_scorer": "loss",
    "baseline": "l2_sp",
    "baseline_weight": 1.0,
}


def launch(folder: Path, processes: int, forgetting: str, resume: str | None = None, **settings: object) -> Path:
    (folder / "script.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    command += [str(folder / "script.py"), str(folder), str(processes), forgetting, json.dumps(settings)]
    command += [] if resume is None else [resume]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / f"{forgetting}-{processes}"


@pytest.fixture
def folder(tmp_path, make_model, tokenizer, learning, forgetting) -> Path:
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    scored = [{**row, "forgetting_confidence": float(i)} for i, row in enumerate(forgetting)]
    prompts = [{"prompt": row["prompt"]} for row in forgetting]
    rows = {"learning": learning.to_list(), "scored": scored, "prompts": prompts}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


def logged(run: Path) -> list[dict[str, float]]:
    return [entry for entry in json.loads((run / "log.json").read_text()) if "loss" in entry]


@pytest.mark.parametrize(("kind", "settings"), [("scored", {}), ("prompts", {}), ("prompts", METHODS)])
def test_two_processes_equal_one(folder, kind, settings):
    one, two = (launch(folder, processes, kind, **settings) for processes in (1, 2))
    for left, right in zip(logged(one), logged(two), strict=True):
        assert left.keys() == right.keys()
        names = {"loss", "grad_norm", "unlearn_loss", "unlearn_grad_norm", "unlearn_updates", "baseline_loss"}
        for name in names & left.keys():
            assert left[name] == pytest.approx(right[name], rel=2e-3), (left["step"], name)
    weights = [load_file(run / "final" / "model.safetensors") for run in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4)


def test_resumed_equals_uninterrupted_on_two_processes(folder):
    whole = launch(folder, 2, "scored")
    expected = load_file(whole / "final" / "model.safetensors")
    launch(folder, 2, "scored", str(whole / "checkpoint-4"))
    for name, tensor in load_file(whole / "final" / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
