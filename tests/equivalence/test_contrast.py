"""The objective `contrast` against its formula written out, and in whole updates of a run."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.unlearning.objectives import OBJECTIVES, UnlearningBatch
from graceful_forgetting.unlearning.order import batch_indices

MARGIN = 1.0


def config(folder: str | Path = "unused", **changes: Any) -> LWFConfig:
    fixed = {"bf16": False, "activation_checkpointing": False, "disable_tqdm": True, "save_strategy": "no"}
    return LWFConfig(output_dir=str(folder), unlearn_objective="contrast", **{**fixed, **changes})


def test_values_gradients_and_what_is_active() -> None:
    nan = math.nan
    log_probs = torch.tensor([[-1.0, -2.0], [-0.5, 0.0], [-3.0, -1.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    own = torch.tensor([-1.5, nan, nan], requires_grad=True)
    right = torch.tensor([-4.0, nan, nan], requires_grad=True)
    batch = UnlearningBatch(
        log_probs, mask, own_scores=own, anchor_scores=right, anchored=torch.tensor([True, True, False])
    )
    objective = OBJECTIVES["contrast"](config())
    values = objective.values(batch)
    unlikelihood = sum(-math.log(1 - math.exp(value) + 1e-6) for value in (-3.0, -1.0)) / 2
    assert values.tolist() == pytest.approx([math.log1p(math.exp(MARGIN + 2.5)), 0.0, unlikelihood], rel=1e-5)
    assert objective.active(batch).tolist() == [True, False, True]
    values.sum().backward()
    slope = 1 / (1 + math.exp(-MARGIN - 2.5))
    assert own.grad is not None
    assert right.grad is not None
    assert own.grad.tolist() == pytest.approx([slope, 0, 0])
    assert right.grad.tolist() == pytest.approx([-slope, 0, 0])
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()
    assert log_probs.grad[2].all()


def nll(model: Any, row: dict[str, Any], with_end: bool = False) -> list[torch.Tensor]:
    """−log p of every counted token, one pass for a row; an objective that unlearns leaves out the end."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(row["labels"][1:])
    kept = labels != -100
    if not with_end:
        kept[kept.nonzero()[-1]] = False
    return list(torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="none"))


def slow_value(model: Any, row: dict[str, Any], right: dict[str, Any] | None) -> torch.Tensor:
    own = nll(model, row)
    if right is None:
        return torch.stack([-(1 - torch.exp(-value) + 1e-6).log() for value in own]).mean()
    theirs = nll(model, right)
    tokens = [[t for t, label in zip(r["input_ids"], r["labels"], strict=True) if label != -100] for r in (row, right)]
    start = 0
    while tokens[0][start] == tokens[1][start]:
        start += 1
    gap = torch.stack(theirs[start:]).mean() - torch.stack(own[start:]).mean()
    return torch.log1p(torch.exp(MARGIN + gap))


@pytest.mark.parametrize("passes", [1, 2])
def test_updates_hold_own_answers_against_the_right_ones(
    tmp_path: Path, make_model: Any, tokenizer: Any, learning: Dataset, forgetting: Dataset, passes: int
) -> None:
    """Two steps of SGD on the whole learning set: θ − lr (∇ learning + v ∇ contrast), in one pass and in two."""
    rate, weight, size, seed = 0.05, 0.3, 4, 42
    model = make_model(initializer_range=0.2)
    slow = copy.deepcopy(model)
    # Half of the pool has prompts of the learning task, with the answer to another of its rows.
    answers = learning["completion"][3:6] + learning["completion"][:3]
    own = Dataset.from_dict({"prompt": learning["prompt"][:6], "completion": answers})
    pool = Dataset.from_list([*own, *({"prompt": r["prompt"], "completion": r["completion"]} for r in forgetting)])
    pool = pool.select(range(12)).add_column("forgetting_confidence", [1.0] * 12)
    args = config(
        tmp_path,
        max_steps=2,
        optim="sgd",
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        per_device_train_batch_size=24,
        seed=seed,
        unlearn_schedule="joint",
        unlearn_weight=weight,
        unlearn_retain_weight=0.0,
        forget_fraction=1.0,
        per_device_unlearn_batch_size=size // passes,
        unlearn_gradient_accumulation_steps=passes,
    )
    trainer = LWFTrainer(model, args, train_dataset=learning, processing_class=tokenizer, forget_dataset=pool)
    trainer.train()

    rows, samples = tokenize_dataset(learning, tokenizer), tokenize_dataset(pool, tokenizer)
    selected = trainer.preparation.selected
    positions = [selected_row["input_ids"] for selected_row in selected]
    by_ids = {tuple(row["input_ids"]): index for index, row in enumerate(samples)}
    order = [by_ids[tuple(ids)] for ids in positions]
    for update in range(2):
        total = torch.stack([value for row in rows for value in nll(slow, row, with_end=True)]).mean()
        for drawn in batch_indices(update, size, len(order), seed):
            index = order[drawn]
            right = rows[index] if index < 6 else None
            total = total + weight / size * slow_value(slow, samples[index], right)
        slow.zero_grad()
        total.backward()
        with torch.no_grad():
            for parameter in slow.parameters():
                parameter.sub_(rate * parameter.grad)
    for (key, found), expected in zip(model.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}")
