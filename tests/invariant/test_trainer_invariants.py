"""Runs that must be the same run: unlearning off, resumed, split into other micro-batches."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer

# transformers 5.19, the oldest that is admitted, has the old name alone; newer ones warn of it.
NEW_NAME = "activation_checkpointing" in {field.name for field in fields(SFTConfig)}
CHECKPOINTING = "activation_checkpointing" if NEW_NAME else "gradient_checkpointing"

COMMON: dict[str, Any] = {
    "max_steps": 9,
    "per_device_train_batch_size": 4,
    "learning_rate": 3e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "bf16": False,
    CHECKPOINTING: False,
    "disable_tqdm": True,
    "seed": 7,
}


def scored(forgetting: Dataset) -> Dataset:
    """The forgetting rows with made-up confidences: training needs no earlier stage then."""
    return forgetting.add_column("forgetting_confidence", [float(i) for i in range(len(forgetting))])


def lwf_config(folder: Path, **changes: Any) -> LWFConfig:
    settings = {"unlearn_every": 2, "forget_fraction": 0.5, "per_device_unlearn_batch_size": 4}
    return LWFConfig(output_dir=str(folder), **{**FORMULA, **COMMON, **settings, **changes})


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


class Recorder(TrainerCallback):
    """Learning rates and, through `batches`, the learning batches of a run."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "learning_rate" in logs:
            self.rates.append(logs["learning_rate"])


class WatchedLWFTrainer(LWFTrainer):
    """Keeps the learning batches in the order in which they were trained on."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.batches = [*getattr(self, "batches", []), inputs["input_ids"].tolist()]
        return super().training_step(model, inputs, *args, **kwargs)


@pytest.mark.parametrize("off", ["no forget_dataset", "unlearn_every=0"])
def test_unlearning_off_equals_sft(tmp_path, make_model, tokenizer, learning, forgetting, off):
    dropout = {"attention_dropout": 0.2}
    plain = SFTTrainer(
        make_model(**dropout),
        SFTConfig(str(tmp_path), **COMMON),
        train_dataset=learning,
        processing_class=tokenizer,
    )
    plain.train()
    forget = None if off == "no forget_dataset" else forgetting
    every = 2 if forget is None else 0
    ours = LWFTrainer(
        make_model(**dropout),
        lwf_config(tmp_path, unlearn_every=every),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forget,
    )
    ours.train()
    assert_same(weights(plain), weights(ours))


def test_unlearning_leaves_steps_rates_and_batches_alone(tmp_path, make_model, tokenizer, learning, forgetting):
    seen = {}
    for every in (0, 2):
        recorder = Recorder()
        trainer = WatchedLWFTrainer(
            make_model(),
            lwf_config(tmp_path / str(every), unlearn_every=every),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=scored(forgetting),
            callbacks=[recorder],
        )
        trainer.train()
        seen[every] = (trainer.state.global_step, recorder.rates, trainer.batches, weights(trainer))
    assert seen[0][:3] == seen[2][:3]
    assert seen[2][0] == 9
    changed = [name for name in seen[0][3] if not torch.equal(seen[0][3][name], seen[2][3][name])]
    assert changed, "unlearning changed no weight"


def test_unlearning_is_logged(tmp_path, make_model, tokenizer, learning, forgetting):
    trainer = LWFTrainer(
        make_model(),
        lwf_config(tmp_path),
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=scored(forgetting),
    )
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    # Unlearning updates precede the learning updates 3, 5, 7 and 9.
    assert [entry["step"] for entry in entries if "unlearn_loss" in entry] == [3, 5, 7, 9]
    assert [entry["unlearn_updates"] for entry in entries] == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    for entry in entries:
        assert entry["grad_norm"] > 0
        if "unlearn_loss" in entry:
            assert entry["unlearn_loss"] > 0
            assert entry["unlearn_grad_norm"] > 0
            assert entry["unlearn_active"] == 1.0
    assert trainer.unlearning_summary() == {
        "updates": 4,
        "guard": {
            "stopped": False,
            "reason": None,
            "step": None,
            "fell_back": False,
            "held_out_loss": None,
            "plain_held_out_loss": None,
        },
    }


def test_resumed_equals_uninterrupted(tmp_path, make_model, tokenizer, learning, forgetting):
    def run(folder: Path, resume: str | None = None) -> LWFTrainer:
        trainer = LWFTrainer(
            make_model(attention_dropout=0.2),
            lwf_config(folder, save_strategy="steps", save_steps=5, logging_steps=3),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=scored(forgetting),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-5"))
    assert resumed.state.global_step == 9
    assert_same(weights(whole), weights(resumed))
    logged = [entry for entry in whole.state.log_history if "loss" in entry]
    for left, right in zip(logged, [e for e in resumed.state.log_history if "loss" in e], strict=True):
        # The Trainer itself forgets the losses between the last log and the checkpoint; ours are kept.
        ours = ("unlearn", "grad_norm", "learning_rate", "step") if left["step"] == 6 else tuple(left)
        for key in left:
            if key.startswith(ours) and key != "num_tokens":
                assert left[key] == right[key], key
    assert whole.unlearning_summary() == resumed.unlearning_summary()
    left, right = whole._updates.optimizer.state_dict(), resumed._updates.optimizer.state_dict()
    for index in left["state"]:
        for name, value in left["state"][index].items():
            assert torch.equal(value, right["state"][index][name])
    assert whole._updates.guard == resumed._updates.guard


def test_micro_batches_do_not_matter(tmp_path, make_model, tokenizer, learning, forgetting):
    seen = []
    for size, passes in ((8, 1), (2, 4)):
        trainer = LWFTrainer(
            make_model(),
            lwf_config(
                tmp_path / str(size),
                per_device_train_batch_size=size,
                gradient_accumulation_steps=passes,
                per_device_unlearn_batch_size=size,
                unlearn_gradient_accumulation_steps=passes,
                max_steps=5,
            ),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=scored(forgetting),
        )
        trainer.train()
        seen.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for left, right in zip(*seen, strict=True):
        assert left.keys() == right.keys()
        for name in {"loss", "grad_norm", "unlearn_loss", "unlearn_grad_norm"} & left.keys():
            assert left[name] == pytest.approx(right[name], rel=1e-4), name
