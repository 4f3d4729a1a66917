"""What must hold for every schedule, objective and baseline: resumed runs, micro-batches, when updates happen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, TrainerCallback

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.training.preparation import Preparation

TOTAL = 9


def config(folder: Path, **changes: Any) -> LWFConfig:
    settings = FORMULA | {
        "max_steps": TOTAL,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "seed": 7,
        "unlearn_every": 2,
        "forget_fraction": 0.5,
        "per_device_unlearn_batch_size": 4,
        "unlearn_loss_cap": 20.0,
    }
    return LWFConfig(output_dir=str(folder), **{**settings, **changes})


@pytest.fixture
def run(make_model: Any, tokenizer: Any, learning: Dataset, forgetting: Dataset) -> Callable[..., LWFTrainer]:
    """Trains with the forgetting rows, scored (made-up scores) or not; `arguments` go to the trainer."""

    def trained(
        folder: Path,
        resume: str | None = None,
        scored: bool = True,
        dropout: float = 0.2,
        arguments: dict[str, Any] | None = None,
        **settings: Any,
    ) -> LWFTrainer:
        pool = forgetting
        if scored:
            pool = pool.add_column("forgetting_confidence", [float((5 * i) % 16) for i in range(len(pool))])
        trainer = LWFTrainer(
            make_model(attention_dropout=dropout),
            config(folder, **settings),
            train_dataset=learning,
            processing_class=tokenizer,
            **{"forget_dataset": pool, **(arguments or {})},
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return trained


def weights(trainer: LWFTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


METHODS: dict[str, dict[str, Any]] = {
    "random, npo, retained": {
        "unlearn_schedule": "random",
        "unlearn_objective": "npo",
        "unlearn_retain_weight": 0.5,
        "confidence_scorer": "loss",
        "scored": False,
    },
    "joint, uniform, ewc": {
        "unlearn_schedule": "joint",
        "unlearn_objective": "uniform",
        "baseline": "ewc",
        "posterior_num_samples": 4,
    },
    "early, gradient difference, bss": {
        "unlearn_schedule": "early",
        "unlearn_objective": "gradient_difference",
        "baseline": "bss",
        "baseline_weight": 0.1,
    },
    "weighted, token forgetting": {
        "forget_strategy": "weighted",
        "forget_fraction": None,
        "baseline": "token_forgetting",
        "posterior_num_samples": 4,
    },
    "periodic, f_learning": {"baseline": "f_learning", "baseline_options": {"steps": 2}},
}


@pytest.mark.parametrize("name", METHODS)
def test_resumed_equals_uninterrupted(tmp_path: Path, run: Any, name: str) -> None:
    settings = {"save_strategy": "steps", "save_steps": 4, **METHODS[name]}
    whole = run(tmp_path, **settings)
    resumed = run(tmp_path, resume=str(tmp_path / "checkpoint-4"), **settings)
    assert same(weights(whole), weights(resumed))
    assert whole.unlearning_summary() == resumed.unlearning_summary()
    assert whole.unlearning_summary()["updates"] > 0
    assert whole._updates.samples.to_dict() == resumed._updates.samples.to_dict()


def test_micro_batches_do_not_matter(tmp_path: Path, run: Any) -> None:
    seen = []
    for size, passes in ((8, 1), (1, 8)):
        trainer = run(
            tmp_path / str(size),
            dropout=0.0,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=passes,
            per_device_unlearn_batch_size=size,
            unlearn_gradient_accumulation_steps=passes,
            max_steps=4,
            unlearn_schedule="joint",
            unlearn_objective="npo",
            unlearn_retain_weight=0.5,
            baseline="l2_sp",
            baseline_weight=1.0,
        )
        seen.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for left, right in zip(*seen, strict=True):
        assert left.keys() == right.keys()
        for key in ("loss", "grad_norm", "unlearn_loss", "unlearn_grad_norm", "baseline_loss"):
            assert left[key] == pytest.approx(right[key], rel=1e-4, abs=1e-6), key


def test_batches_that_are_unset_are_those_of_learning(tmp_path: Path, run: Any) -> None:
    """With as many retained rows an unlearning update is as large as a learning update."""
    learned = {"gradient_accumulation_steps": 2, "unlearn_retain_weight": 0.5}
    unset = run(tmp_path / "unset", per_device_unlearn_batch_size=None, **learned)
    explicit = {"per_device_unlearn_batch_size": 2, "unlearn_gradient_accumulation_steps": 2}
    assert same(weights(unset), weights(run(tmp_path / "explicit", **explicit, **learned)))
    assert unset.unlearning_summary()["updates"] > 0


def test_updates_happen_when_the_schedule_says(tmp_path: Path, run: Any) -> None:
    def counts(schedule: str) -> list[int]:
        trainer = run(tmp_path / schedule, unlearn_schedule=schedule, unlearn_every=2)
        return [entry["unlearn_updates"] for entry in trainer.state.log_history if "loss" in entry]

    assert counts("periodic") == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert counts("early") == [4] * TOTAL
    assert counts("joint") == list(range(1, TOTAL + 1))


def test_early_unlearning_is_over_before_learning_whatever_the_warm_up(tmp_path: Path, run: Any) -> None:
    trainer = run(tmp_path, unlearn_schedule="early", warmup_steps=5, max_steps=6)
    assert {group["lr"] for group in trainer._updates.optimizer.param_groups} == {trainer.args.learning_rate}
    plain = run(tmp_path / "plain", warmup_steps=5, max_steps=6, arguments={"forget_dataset": None})
    assert trainer.state.log_history[0]["loss"] > plain.state.log_history[0]["loss"]


def test_joint_unlearning_is_one_update_with_one_clipping(tmp_path: Path, run: Any) -> None:
    ends = [run(tmp_path / str(w), unlearn_schedule="joint", unlearn_weight=w) for w in (0.1, 1.0)]
    assert not ends[0]._updates.optimizer.state
    first = [trainer.state.log_history[0]["unlearn_grad_norm"] for trainer in ends]
    assert first[1] == pytest.approx(10 * first[0], rel=1e-4)


class Weights(TrainerCallback):
    """Keeps the weights after `step`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_preparation_takes_the_place_of_the_forgetting_set(tmp_path: Path, run: Any) -> None:
    first = run(tmp_path / "first", unlearn_retain_weight=0.5)
    again = run(
        tmp_path / "again",
        unlearn_retain_weight=0.5,
        arguments={"forget_dataset": None, "preparation": first.preparation},
    )
    assert isinstance(again.preparation, Preparation)
    assert same(weights(first), weights(again))
    without = run(tmp_path / "without")
    assert not same(weights(first), weights(without)), "the retain term changed nothing"


def test_the_best_checkpoint_is_kept_when_training_is_stopped_early(
    tmp_path: Path, run: Any, learning: Dataset
) -> None:
    """Early stopping is transformers' own: the best evaluation counts, with unlearning as without."""
    trainer = run(
        tmp_path,
        arguments={"eval_dataset": learning, "callbacks": [EarlyStoppingCallback(early_stopping_patience=1)]},
        learning_rate=0.3,
        guard_margin=None,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
    )
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) < TOTAL
    assert losses[-1] > min(losses)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)
