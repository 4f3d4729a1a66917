"""What prompts have in common is read once, as is a prompt with several completions; likelihoods are those of single
rows."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch import nn
from transformers import BartConfig, BartForCausalLM

from graceful_forgetting.gradients.shared_prompts import completion_nats, tokens_in_common
from graceful_forgetting.lab.bench.architectures import ARCHITECTURES

PROMPTS = ([5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [20, 21, 22], [30, 31, 32, 33, 34])
COMPLETIONS = ([[40, 2], [41, 42, 2], [43, 44, 45, 46, 2]], [[47, 2]], [[48, 49, 2], [50, 2]])
ROWS = [
    {"input_ids": prompt + own, "labels": [-100] * len(prompt) + own}
    for prompt, completions in zip(PROMPTS, COMPLETIONS, strict=True)
    for own in completions
]
SYSTEM = [3, *range(4, 20), 21]
"""What the prompts of a chat begin with."""


def told(rows: Sequence[dict[str, list[int]]], system: list[int] = SYSTEM) -> list[dict[str, list[int]]]:
    """The rows behind a system prompt."""
    return [{"input_ids": system + row["input_ids"], "labels": [-100] * len(system) + row["labels"]} for row in rows]


def alone(model: Any, row: dict[str, list[int]]) -> list[float]:
    """Of one row, without padding and cache."""
    with torch.no_grad():
        log_probs = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0].float().log_softmax(-1)
    ids, labels = row["input_ids"], row["labels"]
    return [-log_probs[place - 1, ids[place]].item() for place, label in enumerate(labels) if label != -100]


def flat(found: list[list[float]]) -> list[float]:
    return [nats for row in found for nats in row]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that embeddings were asked for, padding included, call by call."""
    seen: list[int] = []
    forward = nn.Embedding.forward

    def counted(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids.numel())
        return forward(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", counted)
    return seen


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_likelihoods_are_those_of_separate_rows(name: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    found = completion_nats(model, ROWS, pad_token_id=3)
    assert [len(row) for row in found] == [len(row["labels"]) - row["labels"].count(-100) for row in ROWS]
    assert flat(found) == pytest.approx(flat([alone(model, row) for row in ROWS]), rel=1e-4, abs=1e-5)


def test_the_order_of_rows_is_kept(make_model: Callable[..., Any]) -> None:
    model = make_model(initializer_range=0.3).eval()
    mixed = [ROWS[place] for place in (4, 0, 3, 2, 5, 1)]
    assert flat(completion_nats(model, mixed, 0)) == pytest.approx(flat([alone(model, row) for row in mixed]), rel=1e-4)


def test_a_prompt_is_read_once(make_model: Callable[..., Any], read: list[int]) -> None:
    model = make_model().eval()
    completion_nats(model, ROWS, 0)
    # Three prompts without their last token, as long as the longest; six completions with it.
    assert read == [3 * 9, 6 * 6]


def test_a_model_that_counts_columns_itself_is_not_padded_on_the_left() -> None:
    """BART's decoder has learned positions and takes none."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48, "init_std": 0.3}
    config = BartConfig(vocab_size=61, max_position_embeddings=64, is_decoder=True, is_encoder_decoder=False, **sizes)
    model = BartForCausalLM(config).eval()
    assert flat(completion_nats(model, ROWS, 1)) == pytest.approx(flat([alone(model, row) for row in ROWS]), rel=1e-4)


@pytest.mark.parametrize("kind", ["training", "prefix", "prompts of one token", "all different"])
def test_where_nothing_can_be_shared_rows_are_read_whole(
    make_model: Callable[..., Any], read: list[int], kind: str
) -> None:
    model, rows = make_model(attention_dropout=0.0).eval(), ROWS
    if kind == "training":
        model.train()
    elif kind == "prefix":
        model = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).eval()
    elif kind == "prompts of one token":
        rows = [{"input_ids": [5, *own], "labels": [-100, *own]} for own in COMPLETIONS[0]]
    else:
        rows = [ROWS[0], ROWS[3], ROWS[4]]
    found = completion_nats(model, rows, 0)
    longest = max(len(row["input_ids"]) for row in rows)
    assert len(rows) * longest in read
    read.clear()
    assert flat(found) == pytest.approx(flat([alone(model, row) for row in rows]), rel=1e-4)


def test_an_adapter_reads_a_prompt_once_too(make_model: Callable[..., Any], read: list[int]) -> None:
    model = get_peft_model(make_model(), LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    found = completion_nats(model, ROWS, 0)
    assert read == [3 * 9, 6 * 6]
    assert flat(found) == pytest.approx(flat([alone(model, row) for row in ROWS]), rel=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("places", [(0, 1, 2, 3, 4, 5), (4, 0, 3)], ids=["several completions", "one each"])
def test_likelihoods_behind_a_system_prompt_are_those_of_separate_rows(name: str, places: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    rows = [told(ROWS)[place] for place in places]
    found = completion_nats(model, rows, pad_token_id=3)
    assert flat(found) == pytest.approx(flat([alone(model, row) for row in rows]), rel=1e-4, abs=1e-5)


def test_a_system_prompt_is_read_once(make_model: Callable[..., Any], read: list[int]) -> None:
    model = make_model().eval()
    completion_nats(model, told(ROWS), 0)
    assert read == [18, 3 * 9, 6 * 6]
    read.clear()
    # One completion a prompt: rows are read on from the system prompt.
    completion_nats(model, told([ROWS[0], ROWS[3], ROWS[4]]), 0)
    assert read == [18, 3 * 12]


def test_prompts_that_differ_in_their_last_token_alone(make_model: Callable[..., Any], read: list[int]) -> None:
    model = make_model(initializer_range=0.3).eval()
    rows = told([{"input_ids": [last, *own], "labels": [-100, *own]} for last in (22, 23) for own in COMPLETIONS[0]])
    found = completion_nats(model, rows, 0)
    assert read == [18, 6 * 6]
    assert flat(found) == pytest.approx(flat([alone(model, row) for row in rows]), rel=1e-4)


def test_an_adapter_reads_a_system_prompt_once_too(make_model: Callable[..., Any], read: list[int]) -> None:
    model = get_peft_model(make_model(), LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False)).eval()
    found = completion_nats(model, told(ROWS), 0)
    assert read == [18, 3 * 9, 6 * 6]
    assert flat(found) == pytest.approx(flat([alone(model, row) for row in told(ROWS)]), rel=1e-4)


def test_what_prompts_have_in_common() -> None:
    alike = [[*SYSTEM, 30, 31], [*SYSTEM, 30], [*SYSTEM, 32, 33, 34]]
    assert tokens_in_common(alike) == 18
    # The last token of a prompt is read with its completion.
    assert tokens_in_common([*alike, SYSTEM]) == 17
    assert tokens_in_common(alike[:1]) == 0
    assert tokens_in_common([[1, *prompt] if place else prompt for place, prompt in enumerate(alike)]) == 0
    # Too little: fewer than 16 tokens, or less than a quarter of what is read.
    assert tokens_in_common([prompt[4:] for prompt in alike]) == 0
    assert tokens_in_common([SYSTEM + [place] * 60 for place in (40, 41, 42)]) == 0
