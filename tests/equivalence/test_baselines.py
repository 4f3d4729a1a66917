"""Every baseline against its formula: two or three steps of SGD on the whole learning set, once more by hand.

Both in float64, so that what a formula does to rounding (small singular values are differences of large numbers) is far
below what a wrong one would do to the weights.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F

from graceful_forgetting import LearningPosterior, LWFConfig, LWFTrainer
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.gradients.oracle import oracle_fisher
from graceful_forgetting.posterior.reference import PlainTrainer, reference_args

RATE, STEPS = 0.05, 3


def config(folder: Path, **changes: Any) -> LWFConfig:
    settings = {
        "max_steps": STEPS,
        "optim": "sgd",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": 24,
        "unlearn_every": 0,
        "logging_steps": 1,
        "posterior_estimator": "empirical",
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    return LWFConfig(output_dir=str(folder), **{**settings, **changes})


@pytest.fixture
def build(tmp_path: Path, make_model: Any, tokenizer: Any, learning: Dataset) -> Callable[..., LWFTrainer]:
    def make(forget_dataset: Dataset | None = None, **settings: Any) -> LWFTrainer:
        return LWFTrainer(
            make_model(initializer_range=0.2).double(),
            config(tmp_path / str(settings.get("gradient_accumulation_steps", 1)), **settings),
            train_dataset=learning,
            processing_class=tokenizer,
            forget_dataset=forget_dataset,
        )

    return make


@pytest.fixture
def start(make_model: Any) -> nn.Module:
    """The model that `build` trains, on its own: a copy of a trainer's would share its forward."""
    return make_model(initializer_range=0.2).double()


class Forward:
    """Log-probabilities of the counted tokens of every row, and the hidden states that predict them, row by row."""

    def __init__(self, model: nn.Module, rows: Dataset) -> None:
        self.nll, self.hidden = [], []
        for row in rows:
            outputs = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True)
            labels = torch.tensor(row["labels"][1:])
            kept = labels != -100
            self.nll.append(F.cross_entropy(outputs.logits[0, :-1][kept], labels[kept], reduction="none"))
            self.hidden.append(outputs.hidden_states[-1][0, :-1][kept])

    @property
    def loss(self) -> Tensor:
        return torch.cat(self.nll).mean()


Loss = Callable[[nn.Module, Forward, int], Tensor]


def descend(model: nn.Module, rows: Dataset, loss: Loss) -> tuple[list[float], float]:
    """Steps of SGD in place; returns what `loss` adds to the plain one, before each, and how far they went together."""
    added, way = [], 0.0
    for step in range(STEPS):
        forward = Forward(model, rows)
        total = loss(model, forward, step)
        added.append((total - forward.loss).item())
        model.zero_grad()
        total.backward()
        way += RATE * float(nn.utils.get_total_norm([parameter.grad for parameter in model.parameters()]))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(RATE * parameter.grad)
    return added, way


def assert_trains_as(trainer: LWFTrainer, start: nn.Module, rows: Dataset, loss: Loss) -> None:
    """The trainer ends where SGD by hand ends, from `start`, and not where plain fine-tuning of its model does."""
    plain = copy.deepcopy(trainer.model)
    vars(plain).pop("forward", None)  # the trainer's, which holds on to its own model
    descend(plain, rows, lambda _, forward, __: forward.loss)
    trainer.train()
    added, way = descend(start, rows, loss)
    # The Trainer's way is the same steps in another order of summation. Some of transformers' operations round to
    # float32 whatever the model is (norms, logits, the cosines of positions): a few 6e-8 of each step.
    for (name, found), expected in zip(trainer.model.named_parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-6 * way, msg=lambda text, name=name: f"{name}: {text}"
        )
    ends = zip(plain.parameters(), trainer.model.parameters(), strict=True)
    assert any((end - found).abs().max() > 1e-4 for end, found in ends), "the baseline changes nothing"
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    if any(abs(value) > 1e-4 for value in added):
        assert [entry["baseline_loss"] for entry in logged] == pytest.approx(added, rel=1e-5, abs=1e-6)


def distance(model: nn.Module, anchor: dict[str, Tensor], weights: dict[str, Tensor] | None = None) -> Tensor:
    return sum(
        ((1 if weights is None else weights[name]) * (parameter - anchor[name]) ** 2).sum()
        for name, parameter in model.named_parameters()
    )


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("passes", [1, 3])
def test_l2_sp(build: Any, start: nn.Module, tokenizer: Any, learning: Dataset, passes: int) -> None:
    size = {"per_device_train_batch_size": 24 // passes, "gradient_accumulation_steps": passes}
    trainer = build(baseline="l2_sp", baseline_weight=2.0, **size)
    anchor = weights_of(start)
    rows = tokenize_dataset(learning, tokenizer)
    assert_trains_as(trainer, start, rows, lambda model, forward, _: forward.loss + 2.0 / 2 * distance(model, anchor))


def test_ewc(build: Any, start: nn.Module, tokenizer: Any, learning: Dataset, forgetting: Dataset) -> None:
    trainer = build(forgetting, baseline="ewc", baseline_weight=5.0, confidence_scorer="random")
    anchor, fisher = weights_of(start), oracle_fisher(start, tokenize_dataset(forgetting, tokenizer))
    rows = tokenize_dataset(learning, tokenizer)
    assert_trains_as(
        trainer, start, rows, lambda model, forward, _: forward.loss + 5.0 / 2 * distance(model, anchor, fisher)
    )
    assert trainer.unlearning_summary()["updates"] == 0


def test_afec(build: Any, start: nn.Module, tokenizer: Any, learning: Dataset, tmp_path: Path) -> None:
    trainer = build(baseline="afec", baseline_weight=3.0)
    rows = tokenize_dataset(learning, tokenizer)
    reference = copy.deepcopy(start)
    descend(reference, rows, lambda _, forward, __: forward.loss)
    anchor, fisher = weights_of(reference), oracle_fisher(reference, rows)
    assert_trains_as(
        trainer, start, rows, lambda model, forward, _: forward.loss + 3.0 / 2 * distance(model, anchor, fisher)
    )
    saved = LearningPosterior.from_pretrained(tmp_path / "1" / "preparation" / "posterior" / "posterior")
    expected = anchor["model.norm.weight"].float()
    torch.testing.assert_close(saved.mean["model.norm.weight"], expected, rtol=1e-4, atol=1e-6)


def test_bss(build: Any, start: nn.Module, tokenizer: Any, learning: Dataset) -> None:
    trainer = build(baseline="bss", baseline_weight=0.2, baseline_options={"singular_values": 2})
    rows = tokenize_dataset(learning, tokenizer)

    def loss(_: nn.Module, forward: Forward, __: int) -> Tensor:
        features = torch.cat(forward.hidden)
        # The squared singular values are the eigenvalues, ascending, of the matrix times its transpose.
        return forward.loss + 0.2 * torch.linalg.eigvalsh(features.T @ features)[:2].sum()

    assert_trains_as(trainer, start, rows, loss)


@pytest.mark.parametrize("passes", [1, 3])
def test_token_forgetting(build: Any, start: nn.Module, tokenizer: Any, learning: Dataset, passes: int) -> None:
    size = {"per_device_train_batch_size": 24 // passes, "gradient_accumulation_steps": passes}
    trainer = build(baseline="token_forgetting", baseline_weight=0.5, baseline_options={"positive_share": 0.6}, **size)
    rows = tokenize_dataset(learning, tokenizer)
    reference = copy.deepcopy(start)
    descend(reference, rows, lambda _, forward, __: forward.loss)
    with torch.no_grad():
        scores = torch.cat(Forward(start, rows).nll) - torch.cat(Forward(reference, rows).nll)
    positive = torch.zeros(len(scores), dtype=torch.bool)
    count, ranked = round(0.6 * len(scores)), scores.sort(descending=True)
    positive[ranked.indices[:count]] = True
    assert ranked.values[count - 1] - ranked.values[count] > 1e-5, "which one is positive would be left to rounding"

    def loss(_: nn.Module, forward: Forward, step: int) -> Tensor:
        nll = torch.cat(forward.nll)
        return nll[positive].mean() - 0.5 * step / STEPS * nll[~positive].mean()

    assert_trains_as(trainer, start, rows, loss)


def test_shrink_perturb(build: Any, start: nn.Module, tokenizer: Any, learning: Dataset, make_model: Any) -> None:
    trainer = build(baseline="shrink_perturb", baseline_options={"shrink": 0.7, "noise": 0.2})
    fresh = make_model(seed=trainer.args.seed, initializer_range=0.2).double()
    with torch.no_grad():
        for parameter, new in zip(start.parameters(), fresh.parameters(), strict=True):
            parameter.copy_(0.7 * parameter + 0.2 * new)
    assert_trains_as(trainer, start, tokenize_dataset(learning, tokenizer), lambda _, forward, __: forward.loss)


def test_f_learning(
    build: Any, start: nn.Module, tokenizer: Any, learning: Dataset, forgetting: Dataset, tmp_path: Path
) -> None:
    trainer = build(
        forgetting.add_column("forgetting_confidence", [float(i) for i in range(16)]),
        baseline="f_learning",
        baseline_weight=0.4,
        baseline_options={"steps": 2},
        forget_count=6,
    )
    tuned = copy.deepcopy(start)
    selected = tokenize_dataset(forgetting.select(range(15, 9, -1)), tokenizer).select_columns(["input_ids", "labels"])
    args = reference_args(trainer.args, tmp_path / "tuned")
    args.max_steps = 2
    PlainTrainer(tuned, args, train_dataset=selected, processing_class=tokenizer).train()
    with torch.no_grad():
        for parameter, after in zip(start.parameters(), tuned.parameters(), strict=True):
            parameter.copy_(1.4 * parameter - 0.4 * after)
    assert_trains_as(trainer, start, tokenize_dataset(learning, tokenizer), lambda _, forward, __: forward.loss)


def test_selective_amnesia_is_ewc_with_its_other_terms(build: Any, forgetting: Dataset) -> None:
    """The terms on the forgetting set are tested with the objectives; here that all of them are there."""
    pool = forgetting.add_column("forgetting_confidence", [float(i) for i in range(16)])
    joint = {"unlearn_every": 1, "unlearn_schedule": "joint", "unlearn_objective": "uniform"}
    ends = []
    for baseline, retain in (("selective_amnesia", 1.0), ("ewc", 1.0), ("ewc", 0.5), (None, 1.0)):
        weight = None if baseline is None else 5.0
        trainer = build(pool, baseline=baseline, baseline_weight=weight, unlearn_retain_weight=retain, **joint)
        trainer.train()
        ends.append(trainer.model.lm_head.weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert not torch.equal(ends[0], ends[3])
