"""The batched engine against one ordinary backward pass a sample, on every kind of model that it claims."""

import logging
import random
from collections.abc import Callable

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from exact import exact
from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.gradients.contributions import Dense, Rows
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.oracle import oracle_confidence_terms
from graceful_forgetting.gradients.reducers import ConfidenceTerms, Signature
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.runtime.fingerprint import fingerprint_model

# Names that transformers renamed in 5.23, which PEFT and older versions of transformers know.
pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")

VOCABULARY = 61
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
PLAIN_SIZES = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}


def llama(**overrides: object) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **overrides))


def llama_with_lora() -> PreTrainedModel:
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.1)
    model = get_peft_model(llama(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def llama_with_shared_layer() -> LlamaForCausalLM:
    model = llama()
    model.model.layers[1] = model.model.layers[0]  # each of its modules is called twice
    return model


class Scale(nn.Module):
    """A module that no rule knows: its output is x times a raw parameter, plus a raw matrix product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(1 + 0.1 * torch.randn(width))
        self.mix = nn.Parameter(0.1 * torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + x @ self.mix


class Transposed(nn.Linear):
    """A linear layer whose forward hides behind the name: called as one, it computes with weightᵀ."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight.t(), self.bias)


class FunctionalUse(nn.Module):
    """Uses a linear layer's weight once through its module and once behind its back."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 0.5 * nn.functional.linear(x, self.inner.weight)


class Flattened(nn.Module):
    """Calls a module with samples and positions as one dimension, as mixtures of experts do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(0, -2)).view(*x.shape[:-1], -1)


def llama_with(wrap: Callable[[nn.Module], nn.Module]) -> LlamaForCausalLM:
    model = llama()
    model.model.layers[0].mlp.down_proj = wrap(model.model.layers[0].mlp.down_proj)
    return model


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def gemma() -> GemmaForCausalLM:
    return GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8, pad_token_id=3))


def opt() -> OPTForCausalLM:
    sizes = {**PLAIN_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}
    del sizes["intermediate_size"]
    return OPTForCausalLM(OPTConfig(**sizes, pad_token_id=1, dropout=0.1))


# No model here may need a slow path.
FAST_MODELS = {
    "llama": llama,
    "llama_tied": lambda: llama(tie_word_embeddings=True),
    "llama_tied_padding_row": lambda: llama(tie_word_embeddings=True, pad_token_id=5),
    "llama_biased": lambda: llama(attention_bias=True, mlp_bias=True),
    "llama_lora": llama_with_lora,
    "llama_shared_layer": llama_with_shared_layer,
    "llama_flattened": lambda: llama_with(Flattened),
    "gpt2": gpt2,
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**PLAIN_SIZES)),
    "opt": opt,
    "gemma": gemma,
}
SLOW_MODELS = {
    "unknown_module": (lambda: llama_with(lambda inner: nn.Sequential(inner, Scale(32))), ".scale"),
    "hidden_transpose": (
        lambda: llama_with(lambda inner: nn.Sequential(inner, Transposed(32, 32))),
        ".1.weight",
    ),
    "functional_use": (lambda: llama_with(FunctionalUse), ".inner.weight"),
}


def build(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # biases and norms away from 0 and 1
    return model


def rows_of(lengths: list[tuple[int, int]], seed: int = 1) -> Dataset:
    """Rows of (prompt, completion) lengths; the completion counts."""
    draw = random.Random(seed)
    rows = []
    for prompt, completion in lengths:
        ids = [draw.randrange(VOCABULARY) for _ in range(prompt + completion)]
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return Dataset.from_list(rows)


ROWS = rows_of([(3, 5), (1, 2), (6, 9), (2, 1), (0, 7), (4, 4), (10, 3)])


def weights_of(model: PreTrainedModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """V and F: random, F ≥ 0."""
    generator = torch.Generator().manual_seed(2)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    linear = {name: torch.randn(p.shape, generator=generator) for name, p in trainable.items()}
    quadratic = {name: torch.rand(p.shape, generator=generator) for name, p in trainable.items()}
    return linear, quadratic


def posterior_of(model: PreTrainedModel) -> LearningPosterior:
    generator = torch.Generator().manual_seed(3)
    trainable = {name: p.detach().float() for name, p in model.named_parameters() if p.requires_grad}
    mean = {name: p + 0.02 * torch.randn(p.shape, generator=generator) for name, p in trainable.items()}
    precision = {name: torch.rand(p.shape, generator=generator) for name, p in trainable.items()}
    return LearningPosterior(mean, precision, {"model": fingerprint_model(model)})


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Relative to the size of the term over the rows: a single linear term may cancel to almost nothing.

    1e-5 is 170 roundings of float32, more than lie between any weight of two layers and the loss.
    """
    scale = expected.abs().max()
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=float(tolerance * scale))


def columns(scored: Dataset) -> Tensor:
    names = ["loss", "confidence_linear", "confidence_quadratic", "forgetting_confidence"]
    return torch.tensor([scored[name] for name in names], dtype=torch.float64)


def slow_columns(model: PreTrainedModel, rows: Dataset, posterior: LearningPosterior) -> Tensor:
    """As `columns`, with α = 1, from one ordinary backward pass a row."""
    own = dict(model.named_parameters())
    difference = {name: own[name].detach() - mean for name, mean in posterior.mean.items()}
    v = {name: f * difference[name] for name, f in posterior.precision.items()}
    constant = sum(0.5 * float((v[name] * part).sum(dtype=torch.float64)) for name, part in difference.items())
    loss, product, square = oracle_confidence_terms(model, rows, v, posterior.precision)
    return torch.stack([loss, -product, 0.5 * square, constant - product + 0.5 * square])


@pytest.mark.parametrize("kind", FAST_MODELS)
def test_scores_equal_one_backward_pass_a_sample(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = build(FAST_MODELS[kind])
    posterior = posterior_of(model)
    with caplog.at_level(logging.WARNING, logger="graceful_forgetting"):
        fast = score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf", batch_size=3))
    assert "slow exact path" not in caplog.text
    reference = exact(model)
    slow = slow_columns(reference, ROWS, posterior_of(reference))
    for found, expected in zip(columns(fast), slow, strict=True):
        close(found, expected)


@pytest.mark.parametrize("kind", SLOW_MODELS)
def test_modules_without_a_rule_take_the_announced_slow_path(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, named = SLOW_MODELS[kind]
    model = build(make)
    posterior = posterior_of(model)
    with caplog.at_level(logging.WARNING, logger="graceful_forgetting"):
        fast = score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf", batch_size=3))
    assert named in caplog.text
    reference = exact(model)
    slow = slow_columns(reference, ROWS, posterior_of(reference))
    for found, expected in zip(columns(fast), slow, strict=True):
        close(found, expected)
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_module_that_the_check_did_not_see_called_is_never_scored_by_its_rule(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class OnlyInLongBatches(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.shape[1] > 8 else x[..., :32]

    model = build(lambda: llama_with(OnlyInLongBatches))
    linear, quadratic = weights_of(model)
    terms = ConfidenceTerms(linear, quadratic, dict(model.named_parameters()))
    rows = rows_of([(2, 3), (1, 4), (6, 6)])
    with PerSampleEngine(model, quadratic) as engine, caplog.at_level(logging.WARNING):
        engine.run(right_padded(rows.select([0, 1])), terms)
        assert "inner" not in caplog.text
        engine.run(right_padded(rows.select([2, 0])), terms)
    assert "inner.weight" in caplog.text
    alone = oracle_confidence_terms(exact(model), rows.select([2]), linear, quadratic)
    close(terms.quadratic[:1], alone.quadratic)


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "llama_lora"])
def test_scores_do_not_depend_on_batch_size_or_order_of_rows(kind: str) -> None:
    model = build(FAST_MODELS[kind])
    posterior = posterior_of(model)
    alone = columns(score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf", batch_size=1)))
    for batch_size in (3, 8):
        together = columns(
            score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf", batch_size=batch_size))
        )
        for found, expected in zip(together, alone, strict=True):
            close(found, expected)
    order = [4, 2, 0, 6, 1, 5, 3]
    moved = columns(
        score_confidence(model, ROWS.select(order), posterior, ConfidenceConfig(scorer="lwf", batch_size=3))
    )
    close(moved[3], alone[3, order])


def test_confidence_is_the_literal_formula() -> None:
    model = build(FAST_MODELS["llama_tied"])
    posterior = posterior_of(model)
    alpha = 0.37
    scored = score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf", step_size=alpha, batch_size=4))
    for row, found in zip(ROWS, scored["forgetting_confidence"], strict=True):
        reference = exact(model)
        reference(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
        expected = 0.0
        for name, parameter in reference.named_parameters():
            step = parameter.detach().double() - alpha * parameter.grad.double() - posterior.mean[name].double()
            expected += 0.5 * float((posterior.precision[name].double() * step**2).sum())
        assert found == pytest.approx(expected, rel=1e-5)


def test_the_columns_add_up_and_cross_where_they_say() -> None:
    model = build(llama)
    posterior = posterior_of(model)
    scored = score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf", step_size=2.0))
    for row in scored:
        total = row["confidence_constant"] + row["confidence_linear"] + row["confidence_quadratic"]
        assert row["forgetting_confidence"] == total
        at = row["step_size_crossover"] / 2.0
        assert abs(row["confidence_linear"]) * at == pytest.approx(row["confidence_quadratic"] * at**2, rel=1e-9)
    assert scored["input_ids"] == ROWS["input_ids"]
    again = score_confidence(model, scored, posterior, ConfidenceConfig(scorer="lwf", step_size=2.0))
    assert again.column_names == scored.column_names
    assert again["forgetting_confidence"] == scored["forgetting_confidence"]


def right_padded(rows: Dataset) -> dict[str, Tensor]:
    return padded(rows, left=False)


def padded(rows: Dataset, *, left: bool) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)

    def stack(lists: list[list[int]], fill: int) -> Tensor:
        padding = [[fill] * (longest - len(values)) for values in lists]
        pairs = zip(padding, lists, strict=True)
        return torch.tensor([pad + values if left else values + pad for pad, values in pairs])

    mask = stack([[1] * len(row["input_ids"]) for row in rows], 0)
    return {
        "input_ids": stack([row["input_ids"] for row in rows], 7),
        "attention_mask": mask,
        "labels": stack([row["labels"] for row in rows], -100),
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
    }


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "qwen3"])
def test_padding_on_either_side_changes_nothing(kind: str, left: bool) -> None:
    model = build(FAST_MODELS[kind])
    linear, quadratic = weights_of(model)
    terms = ConfidenceTerms(linear, quadratic, dict(model.named_parameters()))
    with PerSampleEngine(model, quadratic) as engine:
        losses = engine.run(padded(ROWS, left=left), terms)
        assert engine.slow_parameters() == {}
    expected = oracle_confidence_terms(exact(model), ROWS, linear, quadratic)
    close(losses, expected.loss)
    close(terms.linear, expected.linear)
    close(terms.quadratic, expected.quadratic)


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "llama_lora"])
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model = build(FAST_MODELS[kind])
    posterior = posterior_of(model)
    model.train()
    next(model.children()).eval()  # a mixture of modes must come back as well
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random_state, python_state = torch.get_rng_state(), random.getstate()
    score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf", batch_size=4))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert random.getstate() == python_state
    assert [module.training for module in model.modules()] == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert all(not module._forward_hooks for module in model.modules())


def test_gradient_checkpointing_changes_nothing_and_stays_on(caplog: pytest.LogCaptureFixture) -> None:
    model = build(llama)
    posterior = posterior_of(model)
    model.train()
    expected = columns(score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf")))
    model.gradient_checkpointing_enable()
    found = columns(score_confidence(model, ROWS, posterior, ConfidenceConfig(scorer="lwf")))
    assert "slow exact path" not in caplog.text
    assert torch.equal(found, expected)
    assert all(layer.gradient_checkpointing for layer in model.model.layers)


@pytest.mark.parametrize("kind", ["llama_tied", "gemma", "gpt2"])
def test_bfloat16_weights_are_contracted_in_float32(kind: str) -> None:
    model = build(FAST_MODELS[kind]).to(torch.bfloat16)
    linear, quadratic = weights_of(model)
    terms = ConfidenceTerms(linear, quadratic, dict(model.named_parameters()))
    with PerSampleEngine(model, quadratic) as engine:
        losses = engine.run(right_padded(ROWS), terms)
        assert engine.slow_parameters() == {}
    expected = oracle_confidence_terms(model, ROWS, linear, quadratic)
    close(losses, expected.loss, 2e-2)
    close(terms.quadratic, expected.quadratic, 5e-2)
    # The bfloat16 model rounds; what it rounds from is the float32 model.
    exact = oracle_confidence_terms(model.float(), ROWS, linear, quadratic)
    close(terms.quadratic, exact.quadratic, 5e-2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**31))
def test_linear_rule_forms_the_weight_gradient_block_by_block(
    batch: int, length: int, inputs: int, outputs: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, length, inputs, generator=generator)
    delta = torch.randn(batch, length, outputs, generator=generator)
    weight = torch.zeros(outputs, inputs, requires_grad=True)
    cut = seed % outputs
    pieces = [slice(0, cut), slice(cut, outputs)]
    for sample in range(batch):
        (expected,) = torch.autograd.grad((nn.functional.linear(a[sample], weight) * delta[sample]).sum(), weight)
        one = slice(sample, sample + 1)
        found = torch.full((1, outputs, inputs), torch.nan)
        for rows in pieces:
            Dense(delta, a).write_to(found[:, rows], one, rows)
        torch.testing.assert_close(found[0], expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_embedding_rule_sums_repeated_rows_before_anything_else(
    batch: int, length: int, rows: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(rows, (batch, length), generator=generator)
    delta = torch.randn(batch, length, width, generator=generator)
    weight = torch.zeros(rows, width, requires_grad=True)
    expected = torch.stack(
        [
            torch.autograd.grad((nn.functional.embedding(ids[s], weight) * delta[s]).sum(), weight)[0]
            for s in range(batch)
        ]
    )
    samples, indices, values, _ = Rows(ids, delta).merged()
    assert len(set(zip(samples.tolist(), indices.tolist(), strict=True))) == len(samples)
    found = torch.zeros(batch, rows, width)
    found[samples, indices] = values
    torch.testing.assert_close(found, expected)
    cut = seed % rows
    block = torch.zeros(batch, rows - cut, width)
    Rows(ids, delta).add_to(block, slice(0, batch), slice(cut, rows))
    torch.testing.assert_close(block, expected[:, cut:])


def slow_parameters(model: nn.Module, rows: Dataset = ROWS) -> dict[str, str]:
    linear, quadratic = weights_of(model)
    terms = ConfidenceTerms(linear, quadratic, dict(model.named_parameters()))
    with PerSampleEngine(model, quadratic) as engine:
        engine.run(right_padded(rows), terms)
        return engine.slow_parameters()


def test_only_what_needs_it_takes_a_slow_path() -> None:
    mlp = "model.layers.0.mlp.down_proj"
    unknown = build(lambda: llama_with(lambda inner: nn.Sequential(inner, Scale(32))))
    assert slow_parameters(unknown) == {f"{mlp}.1.scale": "module", f"{mlp}.1.mix": "module"}
    hidden = build(lambda: llama_with(FunctionalUse))
    assert slow_parameters(hidden) == {f"{mlp}.inner.weight": "model"}


def test_a_slow_path_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    model = build(lambda: llama_with(lambda inner: nn.Sequential(inner, Scale(32))))
    with caplog.at_level(logging.WARNING, logger="graceful_forgetting"):
        score_confidence(model, ROWS, posterior_of(model), ConfidenceConfig(scorer="lwf", batch_size=2))
    assert caplog.text.count(".scale") == 1


class TwoUses(nn.Module):
    """A linear layer whose weight norm is used as a constant, until `leak` lets its gradient through."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.leak = False

    def forward(self, x: Tensor) -> Tensor:
        product = self.inner(torch.eye(self.inner.in_features, dtype=x.dtype))
        norm = product.norm() if self.leak else product.norm().detach()
        return self.inner(x) / norm


def test_a_detached_use_of_another_shape_is_tolerated_until_a_gradient_comes_back() -> None:
    model = build(lambda: llama_with(TwoUses))
    linear, quadratic = weights_of(model)
    terms = ConfidenceTerms(linear, quadratic, dict(model.named_parameters()))
    with PerSampleEngine(model, quadratic) as engine:
        engine.run(right_padded(ROWS), terms)
        assert engine.slow_parameters() == {}
        expected = oracle_confidence_terms(model, ROWS, linear, quadratic)
        close(terms.quadratic, expected.quadratic)
        model.model.layers[0].mlp.down_proj.leak = True
        with pytest.raises(RuntimeError, match=r"down_proj\.inner\.weight"):
            engine.run(right_padded(ROWS), terms)


def test_a_use_that_leaks_from_the_start_is_slow_and_exact() -> None:
    model = build(lambda: llama_with(TwoUses))
    model.model.layers[0].mlp.down_proj.leak = True
    linear, quadratic = weights_of(model)
    terms = ConfidenceTerms(linear, quadratic, dict(model.named_parameters()))
    with PerSampleEngine(model, quadratic) as engine:
        engine.run(right_padded(ROWS), terms)
        assert engine.slow_parameters() == {"model.layers.0.mlp.down_proj.inner.weight": "model"}
    close(terms.quadratic, oracle_confidence_terms(exact(model), ROWS, linear, quadratic).quadratic)


def test_the_check_of_the_rules_holds_the_gradient_of_one_parameter_at_a_time() -> None:
    model = build(llama)
    linear, quadratic = weights_of(model)
    terms = ConfidenceTerms(linear, quadratic, dict(model.named_parameters()))
    seen: list[StorageWeakRef] = []
    alive: list[int] = []

    def note(gradient: Tensor) -> None:
        alive.append(sum(not storage.expired() for storage in seen))
        seen.append(StorageWeakRef(gradient.untyped_storage()))

    for parameter in model.parameters():
        parameter.register_hook(note)
        parameter.grad = torch.ones_like(parameter)
    with PerSampleEngine(model, quadratic) as engine:
        engine.run(right_padded(ROWS), terms)
        assert engine.slow_parameters() == {}
    assert len(seen) == 2 * len(quadratic)
    assert max(alive) <= 1  # the one before, until the operation that made it returns
    assert all(bool((parameter.grad == 1).all()) for parameter in model.parameters())


def test_a_small_omission_is_no_rounding_error() -> None:
    names = ["large", "small"]
    seen, missed = Signature(), Signature()
    for signature in (seen, missed):
        signature.start(1, torch.device("cpu"))
        signature.dense("large", 0, 0, torch.ones(1, 2, 2))
    seen.dense("small", 0, 0, torch.full((1, 2, 2), 1e-9))
    assert missed.agreement(seen, names, torch.float32) == {"large": True, "small": False}
    assert seen.agreement(seen, names, torch.float32) == {"large": True, "small": True}
