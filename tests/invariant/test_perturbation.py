"""Schedule 'perturb': the learning gradient where an unlearning step leads, applied to the weights as they are."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.unlearning.order import batch_indices
from graceful_forgetting.unlearning.perturbation import Perturbation

CAP, RHO, RETAIN, SIZE, SEED, RATE = 20.0, 0.3, 0.6, 4, 42, 0.05


@pytest.fixture
def run(make_model: Any, tokenizer: Any, learning: Dataset, forgetting: Dataset) -> Callable[..., LWFTrainer]:
    """Trains by SGD on the whole learning set and six selected samples; `arguments` go to the trainer."""

    def trained(
        folder: Path, *, arguments: dict[str, Any] | None = None, model: Any = None, **settings: Any
    ) -> LWFTrainer:
        args = {
            "max_steps": 3,
            "optim": "sgd",
            "learning_rate": RATE,
            "lr_scheduler_type": "constant",
            "per_device_train_batch_size": 24,
            "logging_steps": 1,
            "save_strategy": "no",
            "bf16": False,
            "activation_checkpointing": False,
            "disable_tqdm": True,
            "seed": SEED,
            "unlearn_schedule": "perturb",
            "unlearn_every": 1,
            "unlearn_weight": RHO,
            "unlearn_objective": "bounded_ascent",
            "unlearn_loss_cap": CAP,
            "unlearn_retain_weight": RETAIN,
            "per_device_unlearn_batch_size": SIZE,
            "forget_count": 6,
        }
        pool = forgetting.add_column("forgetting_confidence", [float((5 * i) % 16) for i in range(16)])
        trainer = LWFTrainer(
            model or make_model(initializer_range=0.2),
            LWFConfig(output_dir=str(folder), **{**args, **settings}),
            train_dataset=learning,
            processing_class=tokenizer,
            **{"forget_dataset": pool, **(arguments or {})},
        )
        trainer.train()
        return trainer

    return trained


def nll(model: nn.Module, row: dict[str, Any]) -> torch.Tensor:
    """−log p of every counted token."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(row["labels"][1:])
    return nn.functional.cross_entropy(logits[labels != -100], labels[labels != -100], reduction="none")


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05], ids=["unclipped", "clipped"])
def test_updates_are_those_of_the_formula(
    tmp_path: Path,
    run: Any,
    make_model: Any,
    tokenizer: Any,
    learning: Dataset,
    forgetting: Dataset,
    max_grad_norm: float,
) -> None:
    """θ − lr ∇L(θ − ρ ĝ), ĝ the normalised gradient of what unlearning minimises at θ, retain term included."""
    model = make_model(initializer_range=0.2)
    slow = copy.deepcopy(model)
    trainer = run(
        tmp_path,
        model=model,
        max_grad_norm=max_grad_norm,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=3,
        per_device_unlearn_batch_size=SIZE // 2,
        unlearn_gradient_accumulation_steps=2,
    )
    rows = tokenize_dataset(learning, tokenizer)
    order = sorted(range(16), key=lambda i: -((5 * i) % 16))
    pool = [tokenize_dataset(forgetting, tokenizer)[i] for i in order]
    selected, retained = pool[:6], pool[:5:-1]
    losses = []
    for step in range(3):
        start = [parameter.detach().clone() for parameter in slow.parameters()]
        if step > 0:
            drawn = [batch_indices(step - 1, SIZE, len(pool), SEED + s) for s, pool in ((0, selected), (2, retained))]
            total = sum(
                RETAIN * nll(slow, retained[keep]).mean() - nll(slow, selected[forget]).mean()
                for forget, keep in zip(*drawn, strict=True)
            )
            gradients = torch.autograd.grad(total, list(slow.parameters()))
            norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            with torch.no_grad():
                for parameter, gradient in zip(slow.parameters(), gradients, strict=True):
                    parameter.sub_(RHO * gradient / norm)
        loss = torch.cat([nll(slow, row) for row in rows]).mean()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(slow.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        factor = min(1.0, max_grad_norm / norm.item()) if max_grad_norm else 1.0
        with torch.no_grad():
            for parameter, value, gradient in zip(slow.parameters(), start, gradients, strict=True):
                parameter.copy_(value - RATE * factor * gradient)
    assert trainer.unlearning_summary()["updates"] == 2
    assert [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] == pytest.approx(losses, rel=1e-4)
    for (key, found), expected in zip(model.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}")


class Seen(TrainerCallback):
    """Weights at the end of each update, and right before the next step; how far they were moved in between."""

    def __init__(self) -> None:
        self.ends: list[dict[str, torch.Tensor]] = []
        self.before: list[dict[str, torch.Tensor]] = []
        self.moved: list[float] = []

    def _copy(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.ends.append(self._copy(model))

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        moves = [(value - self.ends[-1][name]).flatten() for name, value in model.named_parameters()]
        self.moved.append(torch.cat(moves).norm().item())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.before.append(self._copy(model))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.ends.append(self._copy(model))


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "lora"])
def test_the_weights_are_moved_by_rho_and_come_back_bit_for_bit(tmp_path: Path, run: Any, lora: bool) -> None:
    seen = Seen()
    arguments: dict[str, Any] = {"callbacks": [seen]}
    if lora:
        arguments["peft_config"] = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    run(
        tmp_path,
        arguments=arguments,
        max_steps=5,
        unlearn_every=2,
        per_device_train_batch_size=12,
        gradient_accumulation_steps=2,
    )
    assert seen.moved == pytest.approx([0, 0, RHO, 0, RHO], rel=1e-3)
    for before, end in zip(seen.before, seen.ends[:-1], strict=True):
        assert all(torch.equal(before[name], end[name]) for name in end)
    frozen = [name for name in seen.ends[0] if lora and "lora_" not in name]
    assert all(torch.equal(seen.ends[0][name], seen.ends[-1][name]) for name in frozen)


def test_micro_batches_do_not_matter(tmp_path: Path, run: Any) -> None:
    logs = []
    for size, passes in ((8, 1), (1, 8)):
        trainer = run(
            tmp_path / str(size),
            max_steps=4,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=passes,
            per_device_unlearn_batch_size=size,
            unlearn_gradient_accumulation_steps=passes,
        )
        logs.append([entry for entry in trainer.state.log_history if "loss" in entry])
    for left, right in zip(*logs, strict=True):
        for key in ("loss", "grad_norm", *(("unlearn_loss", "unlearn_grad_norm") if left["step"] > 1 else ())):
            assert left[key] == pytest.approx(right[key], rel=1e-4), key


def test_where_nothing_is_left_to_unlearn_it_is_sft(
    tmp_path: Path, run: Any, make_model: Any, tokenizer: Any, learning: Dataset
) -> None:
    """Every sample is above a low cap: no gradient, no move, and no random number of the run is used."""
    trainer = run(tmp_path / "capped", unlearn_loss_cap=0.01, model=make_model(attention_dropout=0.2))
    names = ("max_steps", "optim", "learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "seed")
    args = SFTConfig(
        output_dir=str(tmp_path / "sft"),
        **{name: getattr(trainer.args, name) for name in names},
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        save_strategy="no",
    )
    plain = SFTTrainer(make_model(attention_dropout=0.2), args, train_dataset=learning, processing_class=tokenizer)
    plain.train()
    assert trainer.unlearning_summary()["updates"] == 2
    for found, expected in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_the_guard_ends_a_perturbation_that_ruins_learning(tmp_path: Path, run: Any) -> None:
    seen = Seen()
    trainer = run(
        tmp_path,
        arguments={"callbacks": [seen]},
        max_steps=12,
        unlearn_weight=30.0,
        unlearn_loss_cap=1000.0,
        learning_rate=1e-6,
    )
    guard = trainer.unlearning_summary()["guard"]
    assert guard["stopped"]
    assert "smoothed learning loss" in guard["reason"]
    assert seen.moved[-1] == 0


def test_the_weights_are_back_where_a_pass_fails() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    weight.grad = torch.tensor([3.0, 4.0])
    perturbation = Perturbation()
    perturbation.begin([weight], radius=0.5, grad_norm=5.0)
    assert weight.tolist() == pytest.approx([0.7, 1.6])
    with perturbation.around(last=False):
        pass
    assert weight.tolist() == pytest.approx([0.7, 1.6])
    with pytest.raises(KeyboardInterrupt), perturbation.around(last=False):
        raise KeyboardInterrupt
    assert weight.tolist() == [1.0, 2.0]
