"""What users of `SFTTrainer` switch on around the training loop, with unlearning updates in between."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedTokenizerFast, TrainerCallback

from graceful_forgetting import LWFConfig, LWFTrainer


@pytest.fixture
def run(
    tmp_path: Path, make_model: Any, tokenizer: PreTrainedTokenizerFast, learning: Dataset, forgetting: Dataset
) -> Callable[..., LWFTrainer]:
    """Trains for 6 updates, from answers to the end, with 2 unlearning updates."""

    def trained(folder: str = "run", arguments: dict[str, Any] | None = None, **settings: Any) -> LWFTrainer:
        given = {"max_steps": 6, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "unlearn_every": 2}
        given |= {"per_device_unlearn_batch_size": 4, "bf16": False, "activation_checkpointing": False}
        given |= {"disable_tqdm": True, "save_strategy": "no", "report_to": "none", "logging_steps": 1}
        trainer = LWFTrainer(
            make_model(initializer_range=0.2),
            LWFConfig(str(tmp_path / folder), **{**given, **settings}),
            processing_class=tokenizer,
            **{"train_dataset": learning, "forget_dataset": forgetting, **(arguments or {})},
        )
        trainer.train()
        return trainer

    return trained


def weights(trainer: LWFTrainer) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}


def logged(trainer: LWFTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


NUMBERS = ("loss", "grad_norm", "unlearn_loss", "unlearn_grad_norm")


def assert_same_losses(left: LWFTrainer, right: LWFTrainer, tolerance: float) -> None:
    """Of learning and unlearning updates, and their gradients."""
    for a, b in zip(logged(left), logged(right), strict=True):
        assert a.keys() == b.keys()
        for name in set(NUMBERS) & a.keys():
            assert a[name] == pytest.approx(b[name], rel=tolerance), (a["step"], name)
    assert sum("unlearn_loss" in entry for entry in logged(left)) == 2


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing_kwargs": {"selective": True}}, {"lora": True}])
def test_checkpointed_activations_change_nothing(run, settings):
    kept = run("kept")
    checkpointed = run("checkpointed", activation_checkpointing=True, gradient_checkpointing=True)
    for name, parameter in weights(kept).items():
        assert torch.equal(parameter, weights(checkpointed)[name]), name


def test_bf16_follows_float32(run):
    assert_same_losses(run("float32"), run("bf16", bf16=True, use_cpu=True), tolerance=0.05)


@pytest.mark.parametrize("objective", ["bounded_ascent", "uniform"])
def test_compiled_is_eager(run, objective):
    """Of every graph that is traced; a backend that generates code (inductor) differs by rounding alone."""
    settings = {"unlearn_objective": objective}
    eager = run("eager", **settings)
    torch._dynamo.reset()
    compiled = run("compiled", torch_compile=True, torch_compile_backend="eager", **settings)
    assert_same_losses(eager, compiled, tolerance=1e-4)


@pytest.mark.parametrize(
    "settings", [{"label_smoothing_factor": 0.1}, {"loss_type": "dft"}, {"neftune_noise_alpha": 5.0}]
)
def test_other_losses_of_learning(run, settings):
    trainer = run(**settings)
    assert trainer.unlearning_summary()["updates"] == 2
