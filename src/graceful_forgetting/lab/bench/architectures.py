"""The architectures that the scoring engine claims, as tiny random models, and its error on each against the oracle."""

import inspect
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from scipy.stats import spearmanr
from torch import Tensor, nn
from transformers import PreTrainedModel

from graceful_forgetting.data import IGNORE_INDEX
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.oracle import ConfidenceValues, oracle_confidence_terms
from graceful_forgetting.gradients.reducers import ConfidenceTerms
from graceful_forgetting.runtime.internals import without_adapter

VOCABULARY = 61
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "max_position_embeddings": 64}
_GROUPED = {**_SIZES, **_HEADS, "num_key_value_heads": 2}
_TOKENS = {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}


def _model(name: str, **sizes: Any) -> PreTrainedModel:
    config = getattr(transformers, f"{name}Config")(**sizes)
    head = {"GPT2": "LMHeadModel"}.get(name, "ForCausalLM")
    kind = name.removesuffix("Text") if name.startswith("Gemma") else name
    return getattr(transformers, f"{kind}{head}")(config)


def _adapted(**options: Any) -> PreTrainedModel:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], **options)
    model = get_peft_model(_model("Llama", **_GROUPED), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)  # B = 0, the usual start, would leave A without a gradient
    return model


ARCHITECTURES: dict[str, Callable[[], PreTrainedModel]] = {
    "Llama": lambda: _model("Llama", **_GROUPED),
    "Llama, tied": lambda: _model("Llama", **_GROUPED, tie_word_embeddings=True),
    "Mistral": lambda: _model("Mistral", **_GROUPED, sliding_window=6),
    "Qwen3": lambda: _model("Qwen3", **_GROUPED, head_dim=8),
    "Gemma 2": lambda: _model("Gemma2", **_GROUPED, **_TOKENS, head_dim=8, sliding_window=6),
    "Gemma 3": lambda: _model("Gemma3Text", **_GROUPED, **_TOKENS, head_dim=8, sliding_window=6),
    "Phi-3": lambda: _model("Phi3", **_GROUPED, **_TOKENS),
    "OLMo-2": lambda: _model("Olmo2", **_GROUPED, **_TOKENS),
    "GPT-2": lambda: _model("GPT2", vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "GPT-NeoX": lambda: _model("GPTNeoX", **_SIZES, **_HEADS),
    "OPT": lambda: _model(
        "OPT", vocab_size=VOCABULARY, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2, **_HEADS
    ),
    "Bloom": lambda: _model("Bloom", vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "Falcon": lambda: _model(
        "Falcon", vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4
    ),
    "Mixtral": lambda: _model("Mixtral", **_GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "Qwen3-MoE": lambda: _model(
        "Qwen3Moe", **_GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
    ),
    "gpt-oss": lambda: _model(
        "GptOss", **_GROUPED, **_TOKENS, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=6
    ),
    "Mamba": lambda: _model("Mamba", vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2),
    "Llama, LoRA": lambda: _adapted(lora_dropout=0.1),
    "Llama, DoRA": lambda: _adapted(use_dora=True),
}


class Equivalence(NamedTuple):
    """Largest relative errors of one architecture against the oracle.

    The quadratic term and L(x) are compared row by row; the linear term, which may cancel to almost nothing in one
    row, relative to its largest value over the rows. `bfloat16` compares with the float32 model of equal weights, as
    does `rank_correlation` (Spearman, of the quadratic term); `bfloat16_oracle` is what rounding does to the oracle
    itself. `slow`: parameters on a slow path, by what is run once more for each sample.
    """

    right_padded: float
    left_padded: float
    checkpointing: float
    bfloat16: float
    bfloat16_oracle: float
    rank_correlation: float
    slow: dict[str, str]


def build(name: str, seed: int = 0) -> PreTrainedModel:
    """The tiny model of that name, with every parameter away from where its initialisation puts it."""
    torch.manual_seed(seed)
    model = ARCHITECTURES[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # biases and norms away from 0 and 1
    return model


def random_rows(count: int, seed: int = 1) -> Dataset:
    """Tokenised rows of up to 12 prompt tokens and 1 to 12 completion tokens."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        prompt, completion = draw.randint(0, 12), draw.randint(2, 12)
        ids = [draw.randrange(VOCABULARY) for _ in range(prompt + completion)]
        rows.append({"input_ids": ids, "labels": [IGNORE_INDEX] * prompt + ids[prompt:]})
    return Dataset.from_list(rows)


def random_weights(model: nn.Module, seed: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """V and F ≥ 0 by name, of every parameter that requires a gradient."""
    generator = torch.Generator().manual_seed(seed)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    linear = {name: torch.randn(p.shape, generator=generator) for name, p in trainable.items()}
    quadratic = {name: torch.rand(p.shape, generator=generator) for name, p in trainable.items()}
    return linear, quadratic


def padded_batch(rows: Dataset, model: nn.Module, *, left: bool) -> dict[str, Tensor]:
    """The rows as one batch, padded with an ordinary token; positions count from a row's first token."""
    longest = max(len(row["input_ids"]) for row in rows)

    def stack(lists: list[list[int]], fill: int) -> Tensor:
        padding = [[fill] * (longest - len(values)) for values in lists]
        return torch.tensor([p + v if left else v + p for p, v in zip(padding, lists, strict=True)])

    mask = stack([[1] * len(row["input_ids"]) for row in rows], 0)
    batch = {
        "input_ids": stack([row["input_ids"] for row in rows], 7),
        "attention_mask": mask,
        "labels": stack([row["labels"] for row in rows], IGNORE_INDEX),
    }
    if "position_ids" in inspect.signature(without_adapter(model).forward).parameters:
        batch["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return batch


def engine_terms(
    model: nn.Module,
    batch: dict[str, Tensor],
    linear_weights: dict[str, Tensor],
    quadratic_weights: dict[str, Tensor],
) -> tuple[ConfidenceValues, dict[str, str]]:
    """One engine pass over `batch`: the terms, and the parameters on a slow path."""
    terms = ConfidenceTerms(linear_weights, quadratic_weights, dict(model.named_parameters()))
    with PerSampleEngine(model, quadratic_weights) as engine:
        losses = engine.run(batch, terms)
        slow = engine.slow_parameters()
    return ConfidenceValues(losses.double(), terms.linear, terms.quadratic), slow


def largest_error(found: ConfidenceValues, expected: ConfidenceValues) -> float:
    """See `Equivalence`."""
    loss = (found.loss - expected.loss).abs() / expected.loss.abs()
    linear = (found.linear - expected.linear).abs() / expected.linear.abs().max()
    quadratic = (found.quadratic - expected.quadratic).abs() / expected.quadratic
    return float(torch.stack([loss, linear, quadratic]).max())


def measure(name: str, rows: Dataset) -> Equivalence:
    """Compare the engine with the oracle on the architecture `name`."""
    model = build(name)
    weights = random_weights(model)
    expected = oracle_confidence_terms(model, rows, *weights)
    right, slow = engine_terms(model, padded_batch(rows, model, left=False), *weights)
    left, _ = engine_terms(model, padded_batch(rows, model, left=True), *weights)
    model.train()
    model.gradient_checkpointing_enable()
    checkpointed, _ = engine_terms(model, padded_batch(rows, model, left=False), *weights)
    model.gradient_checkpointing_disable()

    model = model.to(torch.bfloat16)
    rounded, _ = engine_terms(model, padded_batch(rows, model, left=False), *weights)
    rounded_oracle = oracle_confidence_terms(model, rows, *weights)
    exact = oracle_confidence_terms(model.float(), rows, *weights)
    return Equivalence(
        right_padded=largest_error(right, expected),
        left_padded=largest_error(left, expected),
        checkpointing=largest_error(checkpointed, expected),
        bfloat16=largest_error(rounded, exact),
        bfloat16_oracle=largest_error(rounded_oracle, exact),
        rank_correlation=float(spearmanr(rounded.quadratic, exact.quadratic).statistic),
        slow=slow,
    )
