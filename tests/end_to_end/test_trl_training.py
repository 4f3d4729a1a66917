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
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    TrainerCallback,
)

from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer

NUMBERS = ("loss", "grad_norm", "unlearn_loss", "unlearn_grad_norm")


@pytest.fixture
def build(
    tmp_path: Path, make_model: Any, tokenizer: PreTrainedTokenizerFast, learning: Dataset, forgetting: Dataset
) -> Callable[..., LWFTrainer]:
    """A trainer of 6 learning and 2 unlearning updates on answers that are not scored yet."""

    def make(folder: str = "run", arguments: dict[str, Any] | None = None, **settings: Any) -> LWFTrainer:
        given = FORMULA | {"max_steps": 6, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "unlearn_every": 2}
        given |= {"per_device_unlearn_batch_size": 4, "bf16": False, "activation_checkpointing": False}
        given |= {"disable_tqdm": True, "save_strategy": "no", "report_to": "none", "logging_steps": 1}
        return LWFTrainer(
            make_model(initializer_range=0.2),
            LWFConfig(str(tmp_path / folder), **{**given, **settings}),
            **{
                "train_dataset": learning,
                "forget_dataset": forgetting,
                "processing_class": tokenizer,
                **(arguments or {}),
            },
        )

    return make


@pytest.fixture
def run(build: Callable[..., LWFTrainer]) -> Callable[..., LWFTrainer]:
    def trained(*positional: Any, **keywords: Any) -> LWFTrainer:
        trainer = build(*positional, **keywords)
        trainer.train()
        return trainer

    return trained


def weights(trainer: LWFTrainer) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}


def logged(trainer: LWFTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


# Arithmetic ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_.* is deprecated:FutureWarning")
@pytest.mark.parametrize("kwargs", [None, {"selective": True}, {"use_reentrant": True}])
def test_checkpointed_activations_change_nothing(run: Any, kwargs: Any) -> None:
    kept = weights(run("kept"))
    settings = {"activation_checkpointing": True, "gradient_checkpointing": True}
    checkpointed = weights(run("checkpointed", gradient_checkpointing_kwargs=kwargs, **settings))
    for name, parameter in kept.items():
        assert torch.equal(parameter, checkpointed[name]), name


def test_bf16_follows_float32(run: Any) -> None:
    exact, rounded = logged(run("float32")), logged(run("bf16", bf16=True, use_cpu=True))
    assert sum("unlearn_loss" in entry for entry in exact) == 2
    for mine, theirs in zip(rounded, exact, strict=True):
        assert mine.keys() == theirs.keys()
        for name in set(NUMBERS) & mine.keys():
            assert mine[name] == pytest.approx(theirs[name], rel=0.05), (mine["step"], name)


@pytest.mark.filterwarnings("ignore:.label_smoothing_factor. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "settings", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.3}, {"neftune_noise_alpha": 5}]
)
def test_the_loss_of_learning_is_that_of_the_reference_run_too(run: Any, settings: dict[str, Any]) -> None:
    """And that of unlearning stays the mean negative log-likelihood: before any update it is the same."""
    plain, changed = run("plain"), run("changed", **settings)
    means = [trainer.preparation.posterior.mean for trainer in (plain, changed)]
    assert any(not torch.equal(mean, means[1][name]) for name, mean in means[0].items())
    losses = [trainer.preparation.scored["loss"][:] for trainer in (plain, changed)]
    assert losses[0] == losses[1]
    assert changed.unlearning_summary()["updates"] == 2


def test_an_optimizer_by_class_is_that_of_both_runs(run: Any) -> None:
    arguments = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5})}
    trainer = run(arguments=arguments, lr_scheduler_type="constant")
    assert isinstance(trainer.optimizer.optimizer, torch.optim.SGD)
    # Unlearning follows the decay, not the size, of a rate that is not in the settings.
    assert {group["lr"] for group in trainer._updates.optimizer.param_groups} == {trainer.args.learning_rate}
    adam = run("adam", lr_scheduler_type="constant").preparation.posterior.mean
    assert any(not torch.equal(mean, adam[name]) for name, mean in trainer.preparation.posterior.mean.items())


def test_an_optimizer_that_exists_cannot_be_shared(build: Any, make_model: Any, forgetting: Dataset) -> None:
    optimizer = torch.optim.SGD(make_model().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"which the reference run cannot share: pass optimizer_cls_and_kwargs"):
        build(arguments={"optimizers": (optimizer, None)})
    scored = forgetting.add_column("forgetting_confidence", [1.0] * len(forgetting))
    assert build(arguments={"optimizers": (optimizer, None), "forget_dataset": scored}).optimizer is optimizer


def test_a_processor_is_refused(build: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    class TextProcessor(ProcessorMixin):
        attributes = ["tokenizer"]  # noqa: RUF012 (transformers' convention)
        tokenizer_class = "AutoTokenizer"

    rows = Dataset.from_list([{"input_ids": [4, 5, 6], "labels": [-100, 5, 6]}])
    with pytest.raises(ValueError, match=r"processing_class is a TextProcessor.*Pass its `.tokenizer`"):
        build(arguments={"processing_class": TextProcessor(tokenizer=tokenizer), "train_dataset": rows})


# Evaluation ----------------------------------------------------------------------------------------------------------


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    labels = prediction.label_ids[:, 1:]
    right = prediction.predictions[:, :-1].argmax(-1) == labels
    return {"accuracy": float(right[labels != -100].mean())}


@pytest.mark.filterwarnings("ignore:.return_outputs=True.:FutureWarning")
def test_metrics_of_ones_own(run: Any, learning: Dataset) -> None:
    arguments = {"eval_dataset": learning, "compute_metrics": accuracy}
    # One batch, since TRL's own accuracy is a mean over batches.
    trainer = run(arguments=arguments, eval_strategy="steps", eval_steps=3, per_device_eval_batch_size=24)
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [3, 6]
    assert all(0 <= entry["eval_accuracy"] <= 1 for entry in evaluations)
    assert evaluations[-1]["eval_accuracy"] == pytest.approx(evaluations[-1]["eval_mean_token_accuracy"])


def test_the_guard_watches_every_evaluation_set(run: Any, learning: Dataset, forgetting: Dataset) -> None:
    arguments = {"eval_dataset": {"task": learning, "other": forgetting}}
    trainer = run(arguments=arguments, eval_strategy="steps", eval_steps=3)
    evaluated = [entry[name] for entry in trainer.state.log_history for name in entry if name == "eval_other_loss"]
    assert len(evaluated) == 2
    assert trainer._updates.guard.lowest["held-out loss eval_other_loss"] == min(evaluated)
    assert "held-out loss eval_task_loss" in trainer._updates.guard.lowest


def test_the_best_model_and_the_unlearning_state_that_goes_with_it(
    tmp_path: Path, run: Any, build: Any, learning: Dataset
) -> None:
    settings = {
        "max_steps": 40,
        "learning_rate": 0.3,
        "lr_scheduler_type": "constant",
        "guard_margin": None,
        "guard_fallback": False,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
    }
    arguments = {"eval_dataset": learning, "callbacks": [EarlyStoppingCallback(early_stopping_patience=2)]}
    trainer = run(arguments=arguments, **settings)
    assert trainer.state.global_step < 40
    best = Path(trainer.state.best_model_checkpoint)
    losses = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    assert best.name == f"checkpoint-{min(losses, key=losses.get)}"
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses.values()), rel=1e-5)
    # From there a run goes on as this one did.
    again = build(arguments={"eval_dataset": learning}, **{**settings, "max_steps": trainer.state.global_step})
    again.train(resume_from_checkpoint=str(best))
    assert again.unlearning_summary() == trainer.unlearning_summary()
    entries = [[e for e in t.state.log_history if e["step"] > int(best.name[11:])] for t in (trainer, again)]
    assert [e["loss"] for e in entries[0] if "loss" in e] == [e["loss"] for e in entries[1] if "loss" in e]


# Logs ----------------------------------------------------------------------------------------------------------------


class Receiver(TrainerCallback):
    """Takes what an integration of `report_to` takes."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.logs: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        json.loads(args.to_json_string())
        self.settings = args.to_sanitized_dict()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.logs.append(dict(logs))


def test_integrations_receive_numbers_and_the_settings_of_the_method(run: Any, learning: Dataset) -> None:
    receiver = Receiver()
    run(arguments={"callbacks": [receiver], "eval_dataset": learning}, eval_strategy="steps", eval_steps=6)
    assert receiver.settings["unlearn_every"] == 2
    assert receiver.settings["confidence_scorer"] == "lwf"
    for entry in receiver.logs:
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in entry.values()), entry
    training = [entry for entry in receiver.logs if "loss" in entry]
    assert len(training) == 6, "the reference run reported as well"
    expected = {"loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy", "num_tokens", "unlearn_updates"}
    assert all(expected <= entry.keys() for entry in training)
    unlearning = [entry for entry in training if "unlearn_loss" in entry]
    assert len(unlearning) == 2
    assert all({"unlearn_active", "unlearn_grad_norm"} <= entry.keys() for entry in unlearning)
    assert any("eval_loss" in entry for entry in receiver.logs)


def test_tensorboard(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    run(report_to="tensorboard")
    written = b"".join(file.read_bytes() for file in (tmp_path / "events").iterdir())
    assert b"train/unlearn_grad_norm" in written


def test_wandb_offline(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    # Its folders; all but the first are in the user's home otherwise.
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb"))
    (tmp_path / "wandb").mkdir()
    try:
        run(report_to="wandb")
        assert wandb.run.summary["train/unlearn_updates"] == 2
        assert wandb.run.summary["train/unlearn_grad_norm"] > 0
        assert wandb.run.config["unlearn_every"] == 2
    finally:
        # Lets go of stdout and stderr: whatever is printed later would be sent to a process that is gone, and a
        # traceback printed in its place.
        wandb.finish()
        # Ends the process that wandb started.
        wandb.teardown()
    assert list((tmp_path / "wandb").rglob("*.wandb"))


def test_trackio(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Read when it is first imported.
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    received: list[dict[str, Any]] = []
    monkeypatch.setattr(trackio, "log", lambda metrics, **_: received.append(metrics))
    run(report_to="trackio")
    assert any("train/unlearn_grad_norm" in metrics for metrics in received)
