"""Answers that were chosen among options: their loss in scores and in updates, by a slow softmax over the options."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from graceful_forgetting import LWFConfig, LWFTrainer, score_confidence
from graceful_forgetting.confidence.losses import shift_by_answer
from graceful_forgetting.confidence.scorer import Measured
from graceful_forgetting.confidence.scorers import TokenInterferenceScorer
from graceful_forgetting.config import ConfidenceConfig, ElicitationConfig
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.elicitation import elicit_self_knowledge
from graceful_forgetting.gradients.options import log_shares, sample_losses, with_other_options
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.training.unlearned_rows import without_ends
from graceful_forgetting.unlearning.order import batch_indices

OPTIONS = [["w3", "w9 w4"], ["w20", "w21 w22", "w5"], None, ["w7", "w8"], None, ["w3 w4", "w3 w5"]]
CAP = 5.0


@pytest.fixture
def model(make_model: Any) -> Any:
    return make_model(initializer_range=0.3).eval()


@pytest.fixture
def knowledge(model: Any, tokenizer: Any) -> Dataset:
    prompts = Dataset.from_dict({"prompt": [f"w{11 + i} w12 " for i in range(len(OPTIONS))], "options": OPTIONS})
    return elicit_self_knowledge(model, tokenizer, prompts, ElicitationConfig(batch_size=4, max_new_tokens=3))


def log_likelihood(model: Any, prompt: list[int], answer: list[int]) -> torch.Tensor:
    log_probs = model(input_ids=torch.tensor([prompt + answer])).logits[0, :-1].float().log_softmax(-1)
    return torch.stack([log_probs[len(prompt) + i - 1, token] for i, token in enumerate(answer)])


def parts(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    start = next(i for i, label in enumerate(row["labels"]) if label != -100)
    return row["input_ids"][:start], row["input_ids"][start:]


def slow_log_probs(model: Any, row: dict[str, Any], with_end: bool = True) -> torch.Tensor:
    """log of the answer's share, (1,), where it has other options; else log p of its tokens."""
    prompt, answer = parts(row)
    tokens = log_likelihood(model, prompt, answer)
    if not row["other_options"]:
        return tokens if with_end or len(tokens) == 1 or answer[-1] != 1 else tokens[:-1]
    others = [log_likelihood(model, prompt, option).sum() for option in row["other_options"]]
    return (tokens.sum() - torch.stack([tokens.sum(), *others]).logsumexp(0)).unsqueeze(0)


def test_elicitation_keeps_the_options_that_were_not_the_answer(knowledge: Dataset, tokenizer: Any) -> None:
    for row, options in zip(knowledge, OPTIONS, strict=True):
        end = [tokenizer.eos_token_id]
        texts = {tuple(tokenizer(text)["input_ids"] + end) for text in options or ()}
        found = {tuple(option) for option in row["other_options"]}
        assert found == texts - {tuple(parts(row)[1])}
        assert len(found) == max(0, len(texts) - 1)


def test_losses_of_a_batch(model: Any, knowledge: Dataset) -> None:
    expected = [-slow_log_probs(model, row).mean().item() for row in knowledge]
    every = list(range(len(knowledge)))
    assert sample_losses(model, knowledge, every).tolist() == pytest.approx(expected, rel=1e-4)
    alone = [sample_losses(model, knowledge, [index]).item() for index in every]
    assert alone == pytest.approx(expected, rel=1e-4)


def test_shares_of_rows_without_options_are_whole() -> None:
    rows = [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [1, 2], "labels": [-100, 2], "other_options": []}]
    expanded, places = with_other_options(rows)
    assert expanded == rows
    shares, chosen = log_shares(torch.tensor([-3.0, -1.0]), places)
    assert shares.tolist() == [0, 0]
    assert not chosen.any()


def test_interference_is_that_of_the_share(model: Any, make_model: Any, tokenizer: Any, knowledge: Dataset) -> None:
    """A common rise of all options, as from learning their format, is none of the answer's share."""
    tuned = make_model(seed=1, initializer_range=0.3).eval()
    posterior = LearningPosterior(mean=dict(tuned.named_parameters()), precision={})
    scored = score_confidence(model, knowledge, posterior, ConfidenceConfig("interference", batch_size=4), tokenizer)
    expected = [(slow_log_probs(model, row).mean() - slow_log_probs(tuned, row).mean()).item() for row in knowledge]
    assert scored["forgetting_confidence"][:] == pytest.approx(expected, rel=1e-3)


def test_token_interference_of_an_option_is_that_of_its_share(
    model: Any, make_model: Any, tokenizer: Any, knowledge: Dataset
) -> None:
    tuned = make_model(seed=1, initializer_range=0.3).eval()
    posterior = LearningPosterior(mean=dict(tuned.named_parameters()), precision={})
    config = ConfidenceConfig("token_interference", batch_size=4)
    scored = score_confidence(model, knowledge, posterior, config, tokenizer)
    for row, score in zip(knowledge, scored["forgetting_confidence"], strict=True):
        before, after = (slow_log_probs(which, row).double().exp().sqrt() for which in (model, tuned))
        assert score == pytest.approx((before - after).clamp(min=0).square().mean().sqrt().item(), rel=1e-3, abs=1e-5)


def test_token_interference_of_an_option_leaves_out_what_the_answer_alone_does() -> None:
    """p falls from .64 to .16, of which a factor of 2 is the answer's own; and the same without a shift."""
    losses = [-math.log(0.64)] * 2, [-math.log(0.16)] * 2
    columns = {
        "loss": torch.tensor(losses[0], dtype=torch.float64),
        "reference_loss": torch.tensor(losses[1], dtype=torch.float64),
        "token_fall": torch.tensor([(0.8 - 0.4) ** 2] * 2, dtype=torch.float64),
        "answer_shift": torch.tensor([math.log(2), 0.0], dtype=torch.float64),
    }
    score = TokenInterferenceScorer().score(Measured(torch.ones(2, dtype=torch.bool), 0, columns))
    assert score.tolist() == pytest.approx([0.8 - 0.32**0.5, 0.4])


def slow_value(name: str, log_probs: torch.Tensor, base_loss: float) -> torch.Tensor:
    if name == "bounded_tokens":
        return -(-log_probs).clamp(max=CAP).mean()
    if name == "npo":
        return -20 * torch.nn.functional.logsigmoid(0.1 * len(log_probs) * (-log_probs.mean() - base_loss))
    return -torch.log(-torch.expm1(log_probs) + 1e-6).mean()


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("name", ["bounded_tokens", "unlikelihood", "npo"])
def test_updates_unlearn_and_retain_shares(
    tmp_path: Path, model: Any, tokenizer: Any, learning: Dataset, knowledge: Dataset, name: str, passes: int
) -> None:
    """Two steps of SGD: θ − lr (∇ learning + v ∇ (unlearning + retained)), in one pass and in two."""
    rate, weight, size, seed = 0.05, 0.3, 4, 42
    slow = copy.deepcopy(model)
    pool = knowledge.add_column("forgetting_confidence", [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    args = LWFConfig(
        output_dir=str(tmp_path),
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        save_strategy="no",
        max_steps=2,
        optim="sgd",
        learning_rate=rate,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        per_device_train_batch_size=24,
        seed=seed,
        unlearn_objective=name,
        unlearn_loss_cap=CAP,
        unlearn_schedule="joint",
        unlearn_weight=weight,
        forget_count=4,
        per_device_unlearn_batch_size=size // passes,
        unlearn_gradient_accumulation_steps=passes,
    )
    trainer = LWFTrainer(model, args, train_dataset=learning, processing_class=tokenizer, forget_dataset=pool)
    trainer.train()

    rows, every = tokenize_dataset(learning, tokenizer), list(pool)
    base_losses = [-slow_log_probs(slow, row).mean().item() for row in every]
    for update in range(2):
        total = -torch.cat([log_likelihood(slow, *parts(row)) for row in rows]).mean()
        for index in batch_indices(update, size, 4, seed):
            log_probs = slow_log_probs(slow, every[index], with_end=name != "unlikelihood")
            total = total + weight / size * slow_value(name, log_probs, base_losses[index])
        # The lowest score is the first of the retained.
        for index in batch_indices(update, size, 2, seed + 2):
            total = total - weight / size * slow_log_probs(slow, every[5 - index]).mean()
        slow.zero_grad()
        total.backward()
        with torch.no_grad():
            for parameter in slow.parameters():
                parameter.sub_(rate * parameter.grad)
    for (key, found), expected in zip(model.named_parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-6, msg=lambda text, key=key: f"{key}: {text}")


def test_a_chosen_answer_keeps_its_end(knowledge: Dataset, tokenizer: Any) -> None:
    for row, found in zip(knowledge, without_ends(knowledge, tokenizer), strict=True):
        if row["other_options"]:
            assert found["labels"] == row["labels"]


def test_all_logits_have_no_shares(
    tmp_path: Path, model: Any, tokenizer: Any, learning: Dataset, knowledge: Dataset
) -> None:
    pool = knowledge.add_column("forgetting_confidence", [float(i) for i in range(len(knowledge))])
    args = LWFConfig(output_dir=str(tmp_path), bf16=False, disable_tqdm=True, max_steps=1, unlearn_objective="uniform")
    with pytest.raises(ValueError, match=r"unlearn_objective='uniform' .* chosen among options .*'unlikelihood'"):
        LWFTrainer(model, args, train_dataset=learning, processing_class=tokenizer, forget_dataset=pool).train()


def test_a_share_is_at_most_one() -> None:
    shares, chosen = log_shares(torch.tensor([-1.0, -2.0, -700.0, -3.0]), [0, 0])
    assert chosen.tolist() == [True, False]
    assert shares[0].item() == pytest.approx(-math.log(1 + math.exp(-2.0)), rel=1e-6)
    assert shares[1].item() == 0


def chosen_row(answer: int, other: int | None) -> dict[str, Any]:
    row = {"input_ids": [5, 6, answer], "labels": [-100, -100, answer]}
    return row | {"other_options": [] if other is None else [[other]]}


def test_a_shift_of_all_answers_alike_is_none_of_a_prompt() -> None:
    rows = Dataset.from_list(
        [chosen_row(7, 8), chosen_row(7, 8), chosen_row(8, 7), chosen_row(7, 9), chosen_row(7, None), chosen_row(8, 7)]
    )
    rise = torch.tensor([1.0, 2.0, -0.5, 4.0, 9.0, math.nan], dtype=torch.float64)
    # 7 or 8: the answer 7 rises by 1.5 in the mean, 8 by −.5, both by .5. 7 or 9: one answer, nothing to compare.
    assert shift_by_answer(rise, rows).tolist() == [1.0, 1.0, -1.0, 0.0, 0.0, 0.0]


def test_the_mean_score_of_every_answer_is_the_same(model: Any, tokenizer: Any) -> None:
    """What learning does to one answer alone does not choose its rivals."""
    prompts = Dataset.from_dict({"prompt": [f"w{11 + i} w12 " for i in range(12)], "options": [["w3", "w4"]] * 12})
    knowledge = elicit_self_knowledge(model, tokenizer, prompts, ElicitationConfig(batch_size=4, max_new_tokens=3))
    assert len(set(knowledge["completion"])) == 2
    mean = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    mean["model.norm.weight"] = mean["model.norm.weight"] * 1.1
    unbiased = score_confidence(model, knowledge, LearningPosterior(mean, {}), ConfidenceConfig(), tokenizer)
    rise = torch.tensor(unbiased["reference_loss"][:]) - torch.tensor(unbiased["loss"][:])
    shift = shift_by_answer(rise, knowledge)
    assert unbiased["forgetting_confidence"][:] == pytest.approx((rise - shift).tolist(), abs=1e-6)
    groups = {
        text: [i for i, own in enumerate(knowledge["completion"]) if own == text] for text in knowledge["completion"]
    }
    means = [torch.tensor(unbiased["forgetting_confidence"][:])[group].mean().item() for group in groups.values()]
    assert means[0] == pytest.approx(means[1], abs=1e-6)
