"""Every unlearning objective against its formula written out token by token, and in whole updates of a run."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.unlearning.objectives import OBJECTIVES, Need, UnlearningBatch
from graceful_forgetting.unlearning.order import batch_indices

NAMES = sorted(OBJECTIVES)
CAP, BETA = 5.0, {"npo": 0.1, "simnpo": 2.5}


def config(folder: str | Path = "unused", **changes: Any) -> LWFConfig:
    fixed = {"bf16": False, "activation_checkpointing": False, "disable_tqdm": True, "save_strategy": "no"}
    return LWFConfig(output_dir=str(folder), **{**fixed, "unlearn_loss_cap": CAP, **changes})


def by_hand(
    name: str, log_probs: list[float], distributions: list[list[float]], base_loss: float, learning_loss: float
) -> float:
    """The value of one sample from log p of its n tokens and, at each, log p of every token."""
    n = len(log_probs)
    loss = -sum(log_probs) / n
    if name == "gradient_ascent":
        return -loss
    if name == "bounded_ascent":
        return -min(loss, CAP)
    if name == "bounded_tokens":
        return -sum(min(-value, CAP) for value in log_probs) / n
    if name == "npo":
        ratio = math.exp(sum(log_probs) - (-base_loss * n))
        return 2 / BETA["npo"] * math.log(1 + ratio ** BETA["npo"])
    if name == "simnpo":
        return -2 / BETA["simnpo"] * math.log(1 / (1 + math.exp(-BETA["simnpo"] * loss)))
    if name == "unlikelihood":
        return sum(-math.log(1 - math.exp(value) + 1e-6) for value in log_probs) / n
    if name == "uniform":
        vocabulary = len(distributions[0])
        return sum(sum((math.log(1 / vocabulary) - q) / vocabulary for q in row) for row in distributions) / n
    assert name == "gradient_difference"
    return learning_loss - loss


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4), spread=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_values_are_those_of_the_formula(name: str, lengths: list[int], spread: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    # In float64: 1 - p of a token that is nearly sure has few digits left in float32.
    logits = spread * torch.randn(*shape, 6, generator=generator, dtype=torch.float64)
    tokens = torch.randint(6, shape, generator=generator)
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    log_softmax = logits.log_softmax(dim=-1)
    log_probs = log_softmax.gather(-1, tokens[..., None]).squeeze(-1).masked_fill(~mask, 0)
    base, learning = torch.rand(len(lengths), generator=generator), torch.rand(len(lengths), generator=generator)
    objective = OBJECTIVES[name](config(unlearn_objective=name))
    batch = UnlearningBatch(log_probs, mask, logits, base, learning)
    values = objective.values(batch)
    assert values.shape == objective.active(batch).shape == (len(lengths),)
    for row, length in enumerate(lengths):
        expected = by_hand(
            name,
            log_probs[row, :length].tolist(),
            log_softmax[row, :length].tolist(),
            base[row].item(),
            learning[row].item(),
        )
        assert values[row].item() == pytest.approx(expected, rel=2e-4, abs=1e-5)


def test_active_is_where_bounded_ascent_has_a_gradient() -> None:
    log_probs = torch.tensor([[-1.0, -2.0], [-5.0, -6.0]], requires_grad=True)
    batch = UnlearningBatch(log_probs, torch.ones(2, 2, dtype=torch.bool))
    objective = OBJECTIVES["bounded_ascent"](config())
    (gradient,) = torch.autograd.grad(objective.values(batch).sum(), log_probs)
    assert objective.active(batch).tolist() == [1, 0] == gradient.any(dim=1).tolist()
    assert OBJECTIVES["gradient_ascent"](config()).active(batch).tolist() == [1, 1]


def test_active_is_the_share_of_tokens_that_have_a_gradient_in_bounded_tokens() -> None:
    log_probs = torch.tensor([[-1.0, -20.0, 0.0], [-5.0, -6.0, -30.0], [-30.0, 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
    batch = UnlearningBatch(log_probs, mask)
    objective = OBJECTIVES["bounded_tokens"](config(unlearn_objective="bounded_tokens", unlearn_loss_cap=5.5))
    (gradient,) = torch.autograd.grad(objective.values(batch).sum(), log_probs)
    assert (gradient != 0).tolist() == [[True, False, False], [True, False, False], [False, False, False]]
    assert objective.active(batch).tolist() == pytest.approx([1 / 2, 1 / 3, 0])


def test_unlikelihood_has_a_gradient_where_the_model_is_sure() -> None:
    logits = torch.tensor([[[40.0, 0.0, 0.0]]], requires_grad=True)
    log_probs = logits.log_softmax(dim=-1)[..., 0]
    assert log_probs.exp().item() == 1.0
    batch = UnlearningBatch(log_probs, torch.ones(1, 1, dtype=torch.bool))
    value = OBJECTIVES["unlikelihood"](config()).values(batch)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()


def nll_and_logits(model: Any, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """−log p of every counted token, and the logits there."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(row["labels"][1:])
    kept = labels != -100
    return torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="none"), logits[kept]


def slow_value(
    name: str, model: Any, row: dict[str, Any], base_loss: float, learning: dict[str, Any], cap: float
) -> torch.Tensor:
    nll, logits = nll_and_logits(model, row)
    if name == "bounded_ascent":
        return -nll.mean().clamp(max=cap)
    if name == "bounded_tokens":
        return -nll.clamp(max=cap).mean()
    if name == "gradient_ascent":
        return -nll.mean()
    if name == "npo":
        return 2 / BETA["npo"] * torch.log1p(torch.exp(BETA["npo"] * (base_loss * len(nll) - nll.sum())))
    if name == "simnpo":
        return 2 / BETA["simnpo"] * torch.log1p(torch.exp(-BETA["simnpo"] * nll.mean()))
    if name == "unlikelihood":
        nll = nll[:-1]  # the end of the answer stays
        return -(1 - torch.exp(-nll) + 1e-6).log().mean()
    if name == "uniform":
        return torch.nn.functional.cross_entropy(logits, torch.full_like(logits, 1 / logits.shape[-1]))
    return nll_and_logits(model, learning)[0].mean() - nll.mean()


@pytest.mark.parametrize(("name", "cap"), [*((name, CAP) for name in NAMES), ("bounded_tokens", 0.01)])
def test_joint_updates_add_the_gradients_of_all_terms(
    tmp_path: Path, make_model: Any, tokenizer: Any, learning: Dataset, forgetting: Dataset, name: str, cap: float
) -> None:
    """Two steps of SGD on the whole learning set: θ − lr (∇ learning + v (∇ weighted objective + w ∇ retained)).

    With the lower cap nothing is left to unlearn, and what is retained keeps its gradient.
    """
    rate, weight, retain, size, seed = 0.05, 0.3, 0.6, 4, 42
    model = make_model(initializer_range=0.2)
    slow = copy.deepcopy(model)
    pool = forgetting.add_column("forgetting_confidence", [float((5 * i) % 16) for i in range(16)])
    pool = pool.add_column("unlearn_weight", [1.0 + i for i in range(16)])
    args = config(
        tmp_path,
        max_steps=2,
        optim="sgd",
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        per_device_train_batch_size=24,
        seed=seed,
        unlearn_objective=name,
        unlearn_schedule="joint",
        unlearn_weight=weight,
        unlearn_retain_weight=retain,
        unlearn_loss_cap=cap,
        forget_count=6,
        per_device_unlearn_batch_size=size // 2,
        unlearn_gradient_accumulation_steps=2,
    )
    trainer = LWFTrainer(model, args, train_dataset=learning, processing_class=tokenizer, forget_dataset=pool)
    trainer.train()
    assert trainer.unlearning_summary()["updates"] == 2

    rows = tokenize_dataset(learning, tokenizer)
    ranked = sorted(tokenize_dataset(pool, tokenizer), key=lambda row: -row["forgetting_confidence"])
    selected, retained = ranked[:6], ranked[:5:-1]
    mean_weight = sum(row["unlearn_weight"] for row in selected) / len(selected)
    with torch.no_grad():
        base = [nll_and_logits(slow, row)[0].mean().item() for row in selected]
    for update in range(2):
        drawn = [
            batch_indices(update, size, count, seed + stream)
            for stream, count in enumerate((6, len(rows), len(retained)))
        ]
        total = torch.cat([nll_and_logits(slow, row)[0] for row in rows]).mean()
        for forget, learn, keep in zip(*drawn, strict=True):
            value = slow_value(name, slow, selected[forget], base[forget], rows[learn], cap)
            value = selected[forget]["unlearn_weight"] / mean_weight * value
            total = total + weight / size * (value + retain * nll_and_logits(slow, retained[keep])[0].mean())
        slow.zero_grad()
        total.backward()
        with torch.no_grad():
            for parameter in slow.parameters():
                parameter.sub_(rate * parameter.grad)
    for (key, found), expected in zip(model.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_needs_are_what_the_formulas_read() -> None:
    needs = {name: OBJECTIVES[name](config(unlearn_objective=name)).needs for name in OBJECTIVES}
    assert {name for name, need in needs.items() if need} == {"npo", "uniform", "gradient_difference"}
    assert needs["npo"] == {Need.BASE_LOSSES}
    assert needs["uniform"] == {Need.LOGITS}
    assert needs["gradient_difference"] == {Need.LEARNING}


def test_an_update_is_shorter_by_the_share_that_is_left_alone(
    tmp_path: Path, make_model: Any, tokenizer: Any, learning: Dataset, forgetting: Dataset
) -> None:
    pool = forgetting.add_column("forgetting_confidence", [1.0] * len(forgetting))
    args = config(
        tmp_path,
        max_steps=2,
        logging_steps=1,
        unlearn_every=1,
        unlearn_objective="bounded_tokens",
        unlearn_learning_rate=1e-3,
        lr_scheduler_type="constant",
        forget_fraction=1.0,
    )
    # Just below the loss of a uniform guess, which a fresh model is near: some tokens are above it.
    model = make_model(initializer_range=0.2)
    args.unlearn_loss_cap = math.log(model.config.vocab_size)
    trainer = LWFTrainer(model, args, train_dataset=learning, processing_class=tokenizer, forget_dataset=pool)
    trainer.train()
    (active,) = [entry["unlearn_active"] for entry in trainer.state.log_history if "unlearn_active" in entry]
    assert 0 < active < 1
    assert trainer._updates.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * active)
