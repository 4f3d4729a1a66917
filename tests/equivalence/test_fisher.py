"""The Fisher information against a loop over samples."""

import itertools
import logging
import math
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from exact import exact
from graceful_forgetting.config import PosteriorConfig
from graceful_forgetting.gradients.oracle import oracle_fisher
from graceful_forgetting.gradients.token_loss import draw_targets
from graceful_forgetting.posterior import estimate_posterior
from graceful_forgetting.posterior.fisher import FisherEstimate, estimate_fisher, fisher_estimate

VOCABULARY = 53


def tied_llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
    )


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64))


MODELS = {"llama_tied": tied_llama, "gpt2": gpt2}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[request.param]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def rows() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for prompt, completion in [(2, 5), (1, 9), (4, 1), (3, 3), (6, 4)]:
        ids = torch.randint(VOCABULARY, (prompt + completion,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return Dataset.from_list(rows)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Relative to the largest entry of a parameter: a small one is the square of a gradient that cancels.

    1e-5 is 170 roundings of float32, twice that of a gradient, whose way through two layers has fewer.
    """
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == torch.float32
        scale = float(values.abs().max())
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-5 * scale + 1e-12, msg=name)


def test_empirical_fisher_is_the_mean_of_squared_gradients(model: PreTrainedModel, rows: Dataset) -> None:
    reference = exact(model).eval()
    expected = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    for row in rows:
        reference.zero_grad()
        reference(input_ids=torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss.backward()
        for name, parameter in reference.named_parameters():
            expected[name] += parameter.grad**2 / len(rows)
    expected = {name: values.float() for name, values in expected.items()}
    assert_same(estimate_fisher(model, rows, PosteriorConfig(estimator="empirical", batch_size=3)), expected)
    assert_same(oracle_fisher(model, rows), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_sampled_fisher_equals_the_oracle_with_the_same_draws(
    model: PreTrainedModel, rows: Dataset, batch_size: int
) -> None:
    found = estimate_fisher(model, rows, PosteriorConfig(batch_size=batch_size, seed=7))
    assert_same(found, oracle_fisher(exact(model), rows, "sampled", seed=7))
    name = next(iter(found))
    assert not torch.equal(found[name], oracle_fisher(model, rows, "sampled", seed=8)[name])


def test_frozen_parameters_have_no_fisher_and_are_reached_through(model: PreTrainedModel, rows: Dataset) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("bias") or "norm" in name or ".1." in name)
    config = PosteriorConfig(estimator="empirical", batch_size=3)
    found = estimate_fisher(model, rows, config)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert_same(found, oracle_fisher(exact(model), rows))


def test_a_subset_is_drawn_by_the_seed_without_replacement(model: PreTrainedModel, rows: Dataset) -> None:
    def fisher(number: int | None, seed: int) -> dict[str, Tensor]:
        config = PosteriorConfig(estimator="empirical", num_samples=number, seed=seed)
        return estimate_fisher(model, rows, config)

    assert_same(fisher(5, 1), fisher(None, 1))
    assert_same(fisher(99, 1), fisher(None, 1))
    assert_same(fisher(2, 1), fisher(2, 1))
    name = next(iter(fisher(2, 1)))
    assert any(not torch.equal(fisher(2, 1)[name], fisher(2, seed)[name]) for seed in (2, 3, 4))


def test_rows_without_counted_tokens_are_left_out_of_the_mean(
    model: PreTrainedModel, rows: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    silent = {"input_ids": [4, 5, 6], "labels": [-100, -100, -100]}
    mixed = Dataset.from_list([*rows, silent])
    config = PosteriorConfig(estimator="empirical")
    with caplog.at_level(logging.WARNING, logger="graceful_forgetting"):
        found = estimate_fisher(model, mixed, config)
    assert "1 of 6 rows" in caplog.text
    assert_same(found, estimate_fisher(model, rows, config))
    assert estimate_posterior(model, model, mixed, config).metadata["num_samples"] == 5


def test_the_model_is_left_as_it_was(model: PreTrainedModel, rows: Dataset) -> None:
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    estimate_fisher(model, rows, PosteriorConfig())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_draws_follow_the_models_distribution_and_the_row_alone() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    logits = probabilities.log().expand(1, 4000, 4)
    targets = torch.zeros(1, 4000, dtype=torch.long)
    targets[0, :100] = -100
    drawn = draw_targets(logits, targets, [3], seed=0)
    assert torch.equal(drawn[0, :100], targets[0, :100])
    shares = torch.bincount(drawn[0, 100:], minlength=4) / 3900
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=0.03)
    assert shares[3] == 0
    together = draw_targets(logits.expand(3, -1, -1), targets.expand(3, -1), [9, 3, 4], seed=0)
    assert torch.equal(together[1], drawn[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(draw_targets(logits, targets, [3], seed=1), drawn)


SMALL = 5


@pytest.fixture
def small() -> PreTrainedModel:
    """A vocabulary so small that every labelling of a row can be tried."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=SMALL, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def small_rows() -> Dataset:
    return Dataset.from_list(
        [
            {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]},
            {"input_ids": [4, 0, 2, 2, 1], "labels": [-100, 0, 2, -100, 1]},
            {"input_ids": [3, 3], "labels": [3, 3]},
        ]
    )


def expected_fisher(model: PreTrainedModel, row: dict[str, list[int]]) -> dict[str, Tensor]:
    """E[(∇L)²] over all labellings of the counted positions, each with its probability under the model."""
    model = exact(model)
    ids, labels = torch.tensor([row["input_ids"]]), row["labels"]
    counted = [position for position in range(1, len(labels)) if labels[position] != -100]
    expected = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for tokens in itertools.product(range(SMALL), repeat=len(counted)):
        logs = model(input_ids=ids).logits[0].log_softmax(dim=-1)
        log = sum(logs[position - 1, token] for position, token in zip(counted, tokens, strict=True))
        gradients = torch.autograd.grad(-log / len(counted), list(model.parameters()))
        for name, gradient in zip(expected, gradients, strict=True):
            expected[name] += math.exp(log.item()) * gradient.double() ** 2
    return expected


def mean_of(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: (sum(part[name] for part in parts) / len(parts)).float() for name in parts[0]}


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_exact_fisher_is_the_expectation_over_every_labelling(
    small: PreTrainedModel, small_rows: Dataset, batch_size: int
) -> None:
    expected = mean_of([expected_fisher(small, row) for row in small_rows])
    found = fisher_estimate(small, small_rows, PosteriorConfig(estimator="exact", batch_size=batch_size))
    assert_same(found.diagonal, expected)
    assert found.trace == pytest.approx(sum(float(part.sum()) for part in expected.values()), rel=1e-5)


def test_sampled_fisher_comes_to_the_exact_one_as_draws_grow(small: PreTrainedModel, small_rows: Dataset) -> None:
    exact = estimate_fisher(small, small_rows, PosteriorConfig(estimator="exact"))

    def error(draws: int) -> float:
        found = estimate_fisher(small, small_rows, PosteriorConfig(batch_size=128), draws=draws)
        difference = sum(float((found[name] - exact[name]).square().sum()) for name in exact)
        return math.sqrt(difference / sum(float(exact[name].square().sum()) for name in exact))

    assert error(4000) < 0.05 < error(4)


def test_draws_are_averaged_and_the_first_is_that_of_a_single_one(model: PreTrainedModel, rows: Dataset) -> None:
    one, three = (fisher_estimate(model, rows, PosteriorConfig(batch_size=4), draws=n) for n in (1, 3))
    name = next(iter(one.diagonal))
    assert not torch.equal(one.diagonal[name], three.diagonal[name])
    doubled = Dataset.from_list([*rows, *rows, *rows])
    # Rows at 5 to 14 have the streams of the second and third draw of rows 0 to 4.
    assert_same(estimate_fisher(model, doubled, PosteriorConfig()), three.diagonal)
    assert three.num_samples == 5


def traces(model: PreTrainedModel, rows: Dataset) -> Tensor:
    single = [oracle_fisher(exact(model), rows.select([index])) for index in range(len(rows))]
    by_row = [sum(float(part.double().sum()) for part in fisher.values()) for fisher in single]
    return torch.tensor(by_row, dtype=torch.float64)


def test_trace_and_its_standard_error_are_those_over_rows(model: PreTrainedModel, rows: Dataset) -> None:
    silent = Dataset.from_list([*rows, {"input_ids": [4, 5], "labels": [-100, -100]}])
    found = fisher_estimate(model, silent, PosteriorConfig(estimator="empirical", batch_size=2))
    by_row = traces(model, rows)
    assert found.trace == pytest.approx(float(by_row.mean()), rel=1e-5)
    assert found.trace_standard_error == pytest.approx(float(by_row.std() / math.sqrt(5)), rel=1e-4)
    single = fisher_estimate(model, rows.select([0]), PosteriorConfig())
    assert single.trace_standard_error is None


def test_sums_of_a_bfloat16_model_are_float32(rows: Dataset) -> None:
    """100 equal rows: bfloat16 sums would stop growing after a few."""
    torch.manual_seed(0)
    model = tied_llama().to(torch.bfloat16)
    config = PosteriorConfig(estimator="empirical", batch_size=1)
    one = estimate_fisher(model, rows.select([0]), config)
    many = estimate_fisher(model, rows.select([0] * 100), config)
    for name, values in one.items():
        assert many[name].dtype == torch.float32
        # 100 roundings of a growing sum are at most 50 times that of the whole, 3e-6.
        torch.testing.assert_close(many[name], values, rtol=1e-5, atol=0)


@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_an_interrupted_estimate_goes_on_from_the_last_shard(
    small: PreTrainedModel, small_rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    from graceful_forgetting.posterior import fisher as module

    rows = Dataset.from_list([*small_rows] * 3)
    monkeypatch.setattr(module, "SHARD_SIZE", 4)
    config = PosteriorConfig(estimator=estimator, batch_size=2, seed=1)
    whole = fisher_estimate(small, rows, config)
    passes: list[int] = []
    add_batch = module._add_batch

    def run(fail_at: int | None, config: PosteriorConfig = config) -> FisherEstimate:
        passes.clear()

        def counted(sums: object, *rest: object) -> None:
            if len(passes) == fail_at:
                raise KeyboardInterrupt
            passes.append(1)
            add_batch(sums, *rest)

        monkeypatch.setattr(module, "_add_batch", counted)
        return fisher_estimate(small, rows, config, tmp_path)

    total = 5 if estimator == "sampled" else 45
    with pytest.raises(KeyboardInterrupt):
        run(fail_at=3)
    resumed = run(fail_at=None)
    assert len(passes) == total - 2, "one shard of two batches was saved"
    for name, values in whole.diagonal.items():
        assert torch.equal(resumed.diagonal[name], values)
    assert resumed[1:] == whole[1:]
    (sums,) = tmp_path.glob("fisher-0-of-1/*.safetensors")
    content = bytearray(sums.read_bytes())
    content[-1] ^= 1
    sums.write_bytes(content)
    run(fail_at=None)
    assert len(passes) == total, "damaged sums must not be taken up"
    other = PosteriorConfig(estimator=estimator, batch_size=2, seed=2)
    run(fail_at=None, config=other)
    assert len(passes) == total, "sums of another seed must not be taken up"


def test_what_cannot_fit_is_refused_with_the_numbers(
    model: PreTrainedModel, rows: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graceful_forgetting.gradients.memory.available_bytes", lambda device: 2**10)
    message = r"Fisher information does not fit: about .*sums of squares .* free; .*last_blocks"
    with pytest.raises(ValueError, match=message):
        fisher_estimate(model, rows, PosteriorConfig(batch_size=2))
