"""A checkpoint that is damaged, unfinished or of another run is passed over by name; the older one serves."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.config import changed
from graceful_forgetting.posterior.reference import PlainTrainer, stopping_after
from graceful_forgetting.runtime.artifacts import DiskError
from graceful_forgetting.runtime.checkpoints import newest_checkpoint

SETTINGS: dict[str, Any] = {
    **FORMULA,
    "max_steps": 9,
    "save_steps": 3,
    "per_device_train_batch_size": 4,
    "lr_scheduler_type": "constant",
    "learning_rate": 3e-3,
    "logging_steps": 1,
    "bf16": False,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "seed": 7,
    "unlearn_every": 2,
    "forget_fraction": 0.5,
    "per_device_unlearn_batch_size": 4,
}


@pytest.fixture
def trainer(tmp_path, make_model, tokenizer, learning, forgetting):
    """Makes a trainer of its own; keywords change its settings."""
    scored: Dataset = forgetting.add_column("forgetting_confidence", [float(i) for i in range(len(forgetting))])

    def make(cls: type = LWFTrainer, callbacks: Any = (), **changes: Any) -> Any:
        args = LWFConfig(output_dir=str(tmp_path / "out"), **{**SETTINGS, **changes})
        forget = {} if cls is PlainTrainer else {"forget_dataset": scored}
        return cls(
            make_model(), args, train_dataset=learning, processing_class=tokenizer, callbacks=[*callbacks], **forget
        )

    return make


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "without optimizer": lambda path: (path / "optimizer.pt").unlink(),
    "without scheduler": lambda path: (path / "scheduler.pt").unlink(),
    "without a record": lambda path: (path / "checkpoint.json").unlink(),
    "empty state": lambda path: (path / "trainer_state.json").write_text(""),
    "a bit of the weights": lambda path: flip(path / "model.safetensors"),
    "a bit of the optimizer": lambda path: flip(path / "optimizer.pt"),
    "a bit of what is unlearned": lambda path: flip(next((path / "unlearning" / "samples").glob("*.arrow"))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(trainer, tmp_path, caplog, damage):
    whole = trainer()
    whole.train()
    expected = weights(whole)
    newest = tmp_path / "out" / "checkpoint-9"
    assert newest_checkpoint(tmp_path / "out") == newest
    DAMAGE[damage](newest)
    # By its name one without a record could be another trainer's.
    if damage != "without a record":
        with pytest.raises(ValueError, match=r"checkpoint-9' cannot be used, since its .* is (damaged|gone)"):
            trainer().train(resume_from_checkpoint=str(newest))
    resumed = trainer()
    resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-9 is passed over, since it" in caplog.text
    assert resumed.state.global_step == 9
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, expected[name]), name
    # It was written again, and serves.
    assert newest_checkpoint(tmp_path / "out") == newest


def test_a_checkpoint_of_an_earlier_run_in_the_folder_is_passed_over(trainer, tmp_path, caplog):
    trainer().train()
    trainer(learning_rate=1e-3, max_steps=3).train()
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))[-1] == "checkpoint-9"
    resumed = trainer(learning_rate=1e-3)
    assert resumed.resumed(True) == tmp_path / "out" / "checkpoint-3"
    assert "checkpoint-9 is passed over, since it is of another run" in caplog.text


def test_checkpoints_of_two_runs_that_change_places_are_passed_over(trainer, tmp_path):
    trainer().train()
    shutil.copytree(tmp_path / "out" / "checkpoint-9", tmp_path / "aside")
    shutil.rmtree(tmp_path / "out")
    trainer(seed=8).train()
    shutil.rmtree(tmp_path / "out" / "checkpoint-9")
    (tmp_path / "aside").rename(tmp_path / "out" / "checkpoint-9")
    assert newest_checkpoint(tmp_path / "out") == tmp_path / "out" / "checkpoint-6"


def test_where_none_can_be_used_that_is_said(trainer, tmp_path):
    trainer().train()
    for state in (tmp_path / "out").glob("checkpoint-*/trainer_state.json"):
        state.unlink()
    with pytest.raises(ValueError, match=r"no checkpoint in .*out can be used; leave the argument out to start anew"):
        trainer().train(resume_from_checkpoint=True)


def test_the_older_checkpoint_goes_when_the_newer_one_is_sealed(trainer, tmp_path, monkeypatch):
    kept = []

    def note(checkpoint: Path, run: str) -> None:
        kept.append(sorted(path.name for path in checkpoint.parent.glob("checkpoint-*")))

    with monkeypatch.context() as patched:
        patched.setattr("graceful_forgetting.posterior.reference.seal_checkpoint", note)
        trainer(save_total_limit=1).train()
    assert kept == [["checkpoint-3"], ["checkpoint-3", "checkpoint-6"], ["checkpoint-6", "checkpoint-9"]]
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-9"]


@pytest.mark.parametrize("cls", [PlainTrainer, LWFTrainer])
@pytest.mark.parametrize(("steps", "save"), [(9, 3), (9, 1), (6, 6)], ids=["in an epoch", "each", "end of an epoch"])
def test_resumed_at_its_end_a_run_takes_no_further_update(trainer, tmp_path, cls, steps, save):
    whole = trainer(cls, max_steps=steps, save_steps=save)
    whole.train()
    expected = weights(whole)
    resumed = trainer(cls, max_steps=steps, save_steps=save)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == steps
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, expected[name]), name


def test_resumed_where_a_callback_ended_it_a_run_takes_no_further_update(trainer):
    for resume in (None, True):
        ended = trainer(PlainTrainer, callbacks=stopping_after(0.5), save_steps=1)
        ended.train(resume_from_checkpoint=resume)
        assert ended.state.global_step == 4


def test_a_finished_run_goes_on_with_more_updates(trainer):
    trainer(max_steps=6).train()
    longer = trainer(max_steps=9)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 9


def test_a_checkpoint_on_a_full_disk_is_one_message(trainer, tmp_path, monkeypatch):
    def fail(*positional: Any, **keywords: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 992320 vs 992212")

    subject = trainer(PlainTrainer)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(
        DiskError, match=r"checkpoint-3 cannot be written: no space left on device; .* MiB and .* inodes"
    ):
        subject.train()
    assert changed(subject.args).output_dir == str(tmp_path / "out")
