"""Likelihood metrics against a slow version that reads one row at a time, unpadded, with all logits."""

import logging
import math

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from chat_tokenizers import byte_level
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.data.encoding import encode_rows
from graceful_forgetting.evaluation.evaluate import EvaluationRows, evaluate_items
from graceful_forgetting.evaluation.likelihood import completion_likelihoods, text_bits_per_byte
from graceful_forgetting.gradients.token_loss import mean_nll


def slow_log_probabilities(model, tokenizer, prompt: str, completion: str) -> list[float]:
    """Log-probability of every token of the completion and of EOS, from one unpadded forward pass."""
    row = tokenize_dataset(Dataset.from_list([{"prompt": prompt, "completion": completion}]), tokenizer)[0]
    with torch.no_grad():
        log_probabilities = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(dim=-1)
    return [
        log_probabilities[position - 1, token].item()
        for position, (token, label) in enumerate(zip(row["input_ids"], row["labels"], strict=True))
        if label != -100
    ]


@pytest.fixture
def questions() -> Dataset:
    """Five questions with two to four options of different lengths."""
    rows = []
    for i in range(5):
        options = [
            " " + " ".join(f"w{(11 * i + 5 * k + j) % 60}" for j in range(1 + (i + k) % 3)) for k in range(2 + i % 3)
        ]
        prompt = " ".join(f"w{(3 * i + k) % 60}" for k in range(1 + 2 * i))
        rows.append({"prompt": prompt, "completion": options[i % 2], "choices": options, "row": f"q{i}"})
    return Dataset.from_list(rows)


def settings(**changes):
    return {"batch_size": 4, "max_new_tokens": 2, "description": "test", "generate": False, **changes}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_choices_equal_the_slow_version_whatever_batch_and_padding_side(
    make_model, tokenizer, questions, side, batch_size
):
    model = make_model()
    tokenizer.padding_side = side
    metrics, items = evaluate_items(
        model, EvaluationRows(questions, tokenizer), "learning", None, **settings(batch_size=batch_size)
    )
    right = right_per_byte = 0
    for row, values, nats, tokens in zip(
        questions, items.choice_log_likelihoods, items.nats, items.tokens, strict=True
    ):
        slow = [slow_log_probabilities(model, tokenizer, row["prompt"], choice) for choice in row["choices"]]
        # The last token is EOS, which does not count towards a choice.
        assert values == pytest.approx([sum(choice[:-1]) for choice in slow], rel=1e-5)
        position = row["choices"].index(row["completion"])
        assert nats == pytest.approx(-sum(slow[position]), rel=1e-5)
        assert tokens == len(slow[position])
        per_byte = [value / len(choice) for value, choice in zip(values, row["choices"], strict=True)]
        right += values[position] == max(values)
        right_per_byte += per_byte[position] == max(per_byte)
    chance = sum(1 / len(row["choices"]) for row in questions) / 5
    assert metrics.choice.accuracy == right / 5
    assert metrics.choice.accuracy_per_byte == right_per_byte / 5 == sum(items.choice_correct) / 5
    assert metrics.choice.chance == pytest.approx(chance)
    assert metrics.choice.adjusted == pytest.approx((right / 5 - chance) / (1 - chance))
    assert metrics.choice.adjusted_per_byte == pytest.approx((right_per_byte / 5 - chance) / (1 - chance))
    assert items.row == [f"q{i}" for i in range(5)]


def test_the_likeliest_option_is_the_old_answer_where_nothing_is_generated(make_model, tokenizer, questions):
    before = [options[(i + 1) % 2] for i, options in enumerate(questions["choices"])]
    asked = questions.add_column("old_answer", before)
    metrics, items = evaluate_items(make_model(), EvaluationRows(asked, tokenizer), "learning", None, **settings())
    rows = zip(asked, items.choice_log_likelihoods, strict=True)
    likeliest = [
        max(zip(values, row["choices"], strict=True), key=lambda it: it[0] / len(it[1]))[1] for row, values in rows
    ]
    assert items.old == [option == old for option, old in zip(likeliest, before, strict=True)]
    assert metrics.old == sum(items.old)
    assert 0 < metrics.old < 5


def test_bits_per_byte_counts_the_end_and_the_bytes_of_the_text(make_model, tokenizer, learning):
    model = make_model(1)
    metrics, _ = evaluate_items(model, EvaluationRows(learning, tokenizer), "learning", None, **settings())
    slow = [slow_log_probabilities(model, tokenizer, row["prompt"], row["completion"]) for row in learning]
    total, size = -sum(map(sum, slow)), sum(len(row["completion"]) for row in learning)
    assert metrics.bits_per_byte == pytest.approx(total / math.log(2) / size, rel=1e-5)
    assert metrics.nll_per_token == pytest.approx(total / sum(map(len, slow)), rel=1e-5)
    parts = completion_likelihoods(model, tokenizer, learning, 7)
    assert [part.end_nats for part in parts] == pytest.approx([-row[-1] for row in slow], rel=1e-5)


def test_a_model_that_knows_the_options_is_right_and_one_that_knows_the_others_is_wrong(make_model, tokenizer):
    # A bias on the output prefers the words w1 over w2 over all others, whatever the prompt.
    model = make_model(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.lm_head = torch.nn.Linear(32, 64, bias=True)
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[tokenizer.convert_tokens_to_ids("w1")] = 3.0
        model.lm_head.bias[tokenizer.convert_tokens_to_ids("w2")] = 2.0
    question = {"prompt": "w5 w6", "choices": [" w1", " w2", " w3"]}
    for completion, correct in ((" w1", 1.0), (" w2", 0.0), (" w3", 0.0)):
        rows = Dataset.from_list([{**question, "completion": completion}])
        choice = evaluate_items(model, EvaluationRows(rows, tokenizer), "learning", None, **settings())[0].choice
        assert choice.accuracy == choice.accuracy_per_byte == correct
        assert choice.adjusted == pytest.approx(1.0 if correct else -0.5)
    # Two tokens of w1 are less likely than one w2, and likelier per byte.
    rows = Dataset.from_list([{"prompt": "w5", "choices": [" w1 w1", " w2"], "completion": " w1 w1"}])
    choice = evaluate_items(model, EvaluationRows(rows, tokenizer), "learning", None, **settings())[0].choice
    assert (choice.accuracy, choice.accuracy_per_byte) == (0.0, 1.0)


def test_generation_can_be_left_out_and_changes_no_likelihood(make_model, tokenizer, questions):
    model = make_model()
    with_answers, items = evaluate_items(
        model, EvaluationRows(questions, tokenizer), "learning", None, **settings(generate=True)
    )
    without, bare = evaluate_items(model, EvaluationRows(questions, tokenizer), "learning", None, **settings())
    assert (without.accuracy, without.correct, without.unparsable, bare.generated, bare.correct) == (None,) * 5
    assert len(items.generated) == len(items.correct) == 5
    assert with_answers.accuracy == sum(items.correct) / 5
    assert with_answers.choice == without.choice
    assert items.nats == bare.nats


def test_text_is_read_in_windows_that_each_follow_the_first_token(make_model, tokenizer):
    model = make_model()
    text = " ".join(f"w{(7 * i) % 60}" for i in range(23))
    ids = tokenizer(text)["input_ids"]
    nats = 0.0
    for start in range(0, 23, 9):
        window = [tokenizer.bos_token_id, *ids[start : start + 9]]
        with torch.no_grad():
            log_probabilities = model(torch.tensor([window])).logits[0].log_softmax(dim=-1)
        nats -= sum(log_probabilities[i, token].item() for i, token in enumerate(window[1:]))
    expected = nats / math.log(2) / len(text)
    for batch_size in (1, 2, 8):
        bits = text_bits_per_byte(model, tokenizer, text, window=10, batch_size=batch_size)
        assert bits == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="not empty"):
        text_bits_per_byte(model, tokenizer, "", window=10, batch_size=2)


def test_a_text_longer_than_the_context_is_no_reason_for_a_warning(make_model, tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(tokenizer, "model_max_length", 10)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    # A command that ran in this process before has made transformers quiet.
    caplog.set_level(logging.WARNING, logger="transformers")
    text = " ".join(["w1"] * 23)
    text_bits_per_byte(make_model(), tokenizer, text, window=10, batch_size=2)
    assert not caplog.records
    tokenizer(text)
    assert "longer than the specified maximum" in caplog.text


def test_a_broken_model_is_named_and_its_mode_restored(make_model, tokenizer, learning):
    model = make_model().train()
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"row \d+ has log-likelihood .*not finite"):
        completion_likelihoods(model, tokenizer, learning, 4)
    assert model.training


def test_the_gradient_of_a_fitted_row_keeps_its_digits() -> None:
    logits = torch.tensor([[[20.0, 1.0, 0.5, -1.0]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(mean_nll(logits, torch.tensor([[0]])).sum(), logits)
    exact = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(exact[0], torch.tensor([0])), exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("head", "consumed"),
    [
        (lambda x, weight: nn.functional.linear(x, weight), True),
        (lambda x, weight: nn.functional.linear(x, weight)[:, torch.arange(4)], True),
        # The backward pass of a hyperbolic tangent needs its result.
        (lambda x, weight: nn.functional.linear(x, weight).tanh(), False),
        (lambda x, weight: nn.functional.linear(x, weight).tanh().view(2, 4, 9), False),
    ],
    ids=["linear", "picked", "tanh", "view_of_tanh"],
)
def test_logits_are_consumed_where_nothing_else_needs_them(head, consumed, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 5, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(9, 5, generator=generator).to(dtype)
    targets = torch.tensor([[1, -100, 8, 0], [3, 3, -100, -100]])
    logits = head(x, weight)
    before = logits.detach().clone()
    losses = mean_nll(logits, targets, consume=True)
    (found,) = torch.autograd.grad(losses.sum(), x)
    assert torch.equal(logits.detach(), before) != consumed
    kept = mean_nll(head(x, weight), targets)
    (expected,) = torch.autograd.grad(kept.sum(), x)
    assert torch.equal(losses, kept)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("prompt", ["The capital of France? (yes or no) Answer: ", "Question: (yes or no) "])
def test_options_differ_as_the_whole_texts_do(prompt):
    """Also where the space before an answer is a part of its first token in some options, and a token in others."""
    tokenizer = byte_level()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.4, **sizes)).double().eval()
    options = ["four", "4", "two", "2", "yes", "no"]
    pairs = [{"prompt": prompt, "completion": option} for option in options]
    assert len({row.start for row in encode_rows(pairs, "prompt", tokenizer)}) > 1
    rows = Dataset.from_list([{"prompt": prompt, "completion": "four", "choices": options}])
    _, items = evaluate_items(model, EvaluationRows(rows, tokenizer), "learning", None, **settings())
    found = items.choice_log_likelihoods[0]

    def whole(text: str) -> float:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            chances = model(ids).logits[0, :-1].log_softmax(dim=-1)
        return float(chances.gather(1, ids[0, 1:, None]).sum())

    expected = [whole(prompt + option) for option in options]
    gaps = [value - expected[0] for value in expected]
    assert [value - found[0] for value in found] == pytest.approx(gaps, abs=1e-5)
