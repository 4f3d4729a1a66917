"""Checkpoints that lost: no loader finds their weights, and a run that compares again does."""

import logging

import pytest

from graceful_forgetting.training.rejected import MARK, mark_rejected, resume_rejected
from graceful_forgetting.unlearning.fallback import HeldOutComparison

WEIGHTS = [
    "model.safetensors",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "other/adapter_model.bin",
]
OTHERS = ["config.json", "optimizer.pt", "training_args.bin", "unlearning/optimizer.safetensors", "tokenizer.json"]


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint-4"
    for name in (*WEIGHTS, *OTHERS):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "model.safetensors").write_text("kept")
    return folder


def files(folder) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_weights_are_put_out_of_reach_and_come_back(checkpoint, caplog):
    before = files(checkpoint.parent)
    resume_rejected(checkpoint.parent, compares=False)
    mark_rejected(checkpoint.parent, HeldOutComparison(2.0, 1.5))
    assert files(checkpoint) == {*(f"{name}.rejected" for name in WEIGHTS), *OTHERS, MARK}
    assert (checkpoint.parent / "model.safetensors").is_file()
    said = (checkpoint / MARK).read_text()
    assert "was 2.0000 nats per token, that of plain fine-tuning 1.5000" in said
    with caplog.at_level(logging.WARNING):
        resume_rejected(checkpoint.parent, compares=True)
    assert "lost to plain fine-tuning" in caplog.text
    assert files(checkpoint.parent) == before


def test_a_run_that_does_not_compare_again_is_refused(checkpoint):
    mark_rejected(checkpoint.parent, HeldOutComparison(2.0, 1.5))
    with pytest.raises(ValueError, match=r"^resume_from_checkpoint: .*pass the eval_dataset and guard_fallback=True"):
        resume_rejected(checkpoint.parent, compares=False)
    assert (checkpoint / MARK).is_file()
