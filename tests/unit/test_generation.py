"""Rounds of generation: whatever the cache, the batch and the draws, each row is as if it were alone."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.generation import generate_completions, make_requests, until_stop
from graceful_forgetting.generation.likelihood import distance_from_greedy, mean_log_probabilities

VOCABULARY = 40
STOPS = [1, 5, 6, 7, 8]


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "hidden_size": 32, "initializer_range": 0.4}
    common |= {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    if kind == "mamba":
        config = MambaConfig(num_hidden_layers=2, state_size=4, use_mambapy=False, **common)
        return MambaForCausalLM(config).eval()
    attention = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    if kind == "sliding":
        return MistralForCausalLM(MistralConfig(sliding_window=6, **attention, **common)).eval()
    return LlamaForCausalLM(LlamaConfig(max_position_embeddings=64, **attention, **common)).eval()


def prompts(number: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 15, (number,), generator=generator).tolist()
    return [torch.randint(9, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def alone(model: PreTrainedModel, prompt: list[int], steps: int) -> list[int]:
    settings = GenerationConfig(max_new_tokens=steps, do_sample=False, eos_token_id=STOPS, pad_token_id=0)
    ids = torch.tensor([prompt])
    output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return until_stop(output[0, len(prompt) :].tolist(), STOPS)


SYSTEM = list(range(9, 29))
"""What the prompts of a chat begin with."""


# 13 rows at once only leave; of 8, two at a time take the places of those that have ended.
@pytest.mark.parametrize("system", [[], SYSTEM], ids=["plain", "system prompt"])
@pytest.mark.parametrize(("kind", "batch_size"), [("llama", 13), ("llama", 8), ("sliding", 8), ("mamba", 8)])
def test_rows_that_leave_and_join_do_not_change_the_others(kind, batch_size, system):
    model, rows = build(kind), [system + prompt for prompt in prompts(13)]
    config = ElicitationConfig(batch_size=batch_size, max_new_tokens=16)
    completions = generate_completions(model, rows, config, pad_token_id=0, eos_token_ids=STOPS)
    expected = [alone(model, prompt, 16) for prompt in rows]
    assert [completion.token_ids for completion in completions] == expected
    assert len({len(ids) for ids in expected}) > 4
    judged = [mean_log_probabilities(model, [row], [ids], 0)[0] for row, ids in zip(rows, expected, strict=True)]
    assert [completion.mean_log_probability for completion in completions] == pytest.approx(judged, rel=1e-5)


@pytest.mark.parametrize("batch_size", [13, 8])
def test_what_prompts_begin_with_is_read_once(batch_size, monkeypatch):
    model, rows = build("llama"), [SYSTEM + prompt for prompt in prompts(13)]
    read: list[tuple[int, ...]] = []
    forward = nn.Embedding.forward

    def counted(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        read.append(tuple(ids.shape))
        return forward(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", counted)
    config = ElicitationConfig(batch_size=batch_size, max_new_tokens=3)
    generate_completions(model, rows, config, pad_token_id=0, eos_token_ids=STOPS)
    assert read[0] == (1, len(SYSTEM))
    # Then the rest of the prompts, the longest of which has 14 tokens, and one token a row and step.
    assert max(tokens for _, tokens in read[1:]) <= 14
    started = sum(batch for batch, tokens in read[1:] if tokens > 1)
    assert 0 < started <= 13


def sampled(rows: Sequence[list[int]], batch_size: int, draws: int = 3, seed: int = 3) -> list[list[list[int]]]:
    """The tokens of each prompt's draws."""
    config = ElicitationConfig(
        batch_size=batch_size,
        max_new_tokens=8,
        temperature=1.5,
        num_samples_per_prompt=draws,
        seed=seed,
    )
    found = generate_completions(build("llama"), rows, config, pad_token_id=0, eos_token_ids=STOPS)
    tokens = [completion.token_ids for completion in found]
    return [tokens[first : first + draws] for first in range(0, len(tokens), draws)]


def test_draws_depend_on_seed_prompt_and_number_alone():
    rows = prompts(6)
    drawn = sampled(rows, batch_size=32)
    assert sampled(rows, batch_size=1) == drawn
    assert sampled(rows, batch_size=5) == drawn
    assert sampled(rows[::-1], batch_size=4) == drawn[::-1]
    assert sampled(rows[2:4], batch_size=4) == drawn[2:4]
    assert [draws[:2] for draws in drawn] == sampled(rows, batch_size=32, draws=2)
    assert sampled(rows, batch_size=32, seed=4) != drawn
    assert all(draws[0] != draws[1] for draws in drawn)


def test_a_repeated_prompt_goes_on_counting_its_draws():
    (row,) = prompts(1)
    four = sampled([row], batch_size=8, draws=4)
    assert sampled([row, row], batch_size=8, draws=2) == [four[0][:2], four[0][2:]]


def test_seeds_are_exact_as_double_precision_numbers():
    config = ElicitationConfig(temperature=1.0, num_samples_per_prompt=50)
    seeds = [request.seed for request in make_requests(prompts(20), config)]
    assert len(set(seeds)) == 1000
    assert all(int(float(seed)) == seed for seed in seeds)


def test_greedy_answers_are_at_no_distance_from_greedy():
    model, (row, *_) = build("llama"), prompts(3)
    answer = alone(model, row, 6)
    assert distance_from_greedy(model, row, answer) == pytest.approx([0.0] * len(answer), abs=1e-6)
    changed = [*answer[:-1], (answer[-1] + 1) % VOCABULARY]
    *same, last = distance_from_greedy(model, row, changed)
    assert same == pytest.approx([0.0] * len(same), abs=1e-6)
    with torch.no_grad():
        logits = model(torch.tensor([[*row, *answer[:-1]]])).logits[0, -1]
    assert last == pytest.approx(float(logits.max() - logits[changed[-1]]), rel=1e-5)


def test_without_eos_tokens_every_answer_has_full_length():
    found = generate_completions(
        build("llama"), prompts(5), ElicitationConfig(max_new_tokens=4), pad_token_id=0, eos_token_ids=[]
    )
    assert [(len(c.token_ids), c.stopped, c.content_ids == c.token_ids) for c in found] == [(4, False, True)] * 5
