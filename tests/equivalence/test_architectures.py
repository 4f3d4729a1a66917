"""The engine against the oracle on every architecture that it claims."""

import pytest
import torch

from graceful_forgetting.gradients.oracle import oracle_confidence_terms
from graceful_forgetting.lab.bench.architectures import (
    ARCHITECTURES,
    build,
    engine_terms,
    largest_error,
    measure,
    padded_batch,
    random_rows,
    random_weights,
)

# Raw parameters next to tensors of the attention or of the scan: no module takes them as its only tensor.
WITH_SLOW_PARAMETERS = {
    "Mamba": {"A_log", "D", "conv1d.weight", "conv1d.bias", "dt_proj.weight", "dt_proj.bias"},
    "gpt-oss": {"sinks"},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_equals_the_oracle(name: str) -> None:
    found = measure(name, random_rows(16))
    assert found.right_padded <= 1e-5
    assert found.left_padded <= 1e-5
    assert found.checkpointing <= 1e-5
    # The way through two layers has some fifty roundings to bfloat16, of up to 2⁻⁹ each: √50 · 2⁻⁹ in a gradient that
    # adds them up in random directions, and twice that, 2.8e-2, in its square. Where they move the oracle further, they
    # move the engine as far, by other roundings: the two are as far apart from each other as from float32.
    assert found.bfloat16 <= max(2.8e-2, 2 * found.bfloat16_oracle)
    # Of 16 rows, two neighbours nearer to each other than that cost 6 · 2 / (16 · 255) = .003 when they change places.
    assert found.rank_correlation >= 0.97
    expected = WITH_SLOW_PARAMETERS.get(name, set())
    assert {slow for slow in expected if any(full.endswith(slow) for full in found.slow)} == expected
    assert all(full.endswith(tuple(expected)) for full in found.slow)


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(WITH_SLOW_PARAMETERS)))
def test_what_is_batched_takes_no_slow_path(name: str) -> None:
    model = build(name)
    _, slow = engine_terms(model, padded_batch(random_rows(3), model, left=False), *random_weights(model))
    assert slow == {}


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_experts_are_exact_whatever_computes_them(implementation: str) -> None:
    model = build("Qwen3-MoE")
    model.set_experts_implementation(implementation)
    rows, weights = random_rows(6), random_weights(model)
    found, slow = engine_terms(model, padded_batch(rows, model, left=False), *weights)
    assert slow == {}
    assert largest_error(found, oracle_confidence_terms(model, rows, *weights)) <= 1e-5


def test_some_of_the_expert_weights_alone() -> None:
    model = build("Mixtral")
    names = {"model.layers.1.mlp.experts.down_proj", "model.layers.0.mlp.gate.weight"}
    weights = tuple({name: part[name] for name in names} for part in random_weights(model))
    rows = random_rows(5)
    found, slow = engine_terms(model, padded_batch(rows, model, left=False), *weights)
    assert slow == {}
    assert torch.all(found.quadratic > 0)
    assert largest_error(found, oracle_confidence_terms(model, rows, *weights)) <= 1e-5
