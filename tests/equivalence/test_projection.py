"""Projected per-sample gradients against A G Bᵀ of autograd's, on every kind of parameter and every path."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graceful_forgetting.confidence.pairwise import feature_width
from graceful_forgetting.gradients.contributions import as_matrix
from graceful_forgetting.gradients.engine import PerSampleEngine
from graceful_forgetting.gradients.projection import ProjectedGradients, projection_bytes
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, mean_nll
from graceful_forgetting.lab.bench.architectures import build, padded_batch, random_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def gradients(model: nn.Module, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Of every sample by autograd, by name, as matrices."""
    model.eval()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    positions, targets = counted_targets(batch)
    found = []
    for sample in range(len(targets)):
        loss = mean_nll(counted_logits(model, batch, positions), targets)[sample]
        parts = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        found.append(
            {
                name: as_matrix(torch.zeros_like(parameters[name]) if part is None else part)
                for name, part in zip(parameters, parts, strict=True)
            }
        )
    return found


def sides(projection: ProjectedGradients, name: str, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """A (height, rows) and Bᵀ (columns, breadth) of a parameter, from what becomes of single entries of a gradient."""
    rows, columns = shape
    height, breadth = min(projection.size, rows), min(projection.size, columns)
    place = projection.place(name)

    def image(gradient: Tensor) -> Tensor:
        projection.start(1, gradient.device)
        projection.dense(name, 0, 0, gradient.unsqueeze(0))
        return projection.features[0, place].view(height, breadth).clone()

    def unit(row: int, column: int) -> Tensor:
        gradient = torch.zeros(rows, columns)
        gradient[row, column] = 1.0
        return gradient

    corner = image(unit(0, 0))
    first = corner[0, 0]
    a = torch.stack([image(unit(row, 0))[:, 0] for row in range(rows)], dim=1)
    b = torch.stack([image(unit(0, column))[0] for column in range(columns)], dim=0) / first
    return a, b


@pytest.mark.parametrize("width", [200, 10**9], ids=["projected", "whole"])
@pytest.mark.parametrize("name", ["Llama", "Llama, tied", "GPT-2", "Gemma 3", "Qwen3-MoE", "Mamba"])
def test_features_are_the_projected_gradients(name: str, width: int) -> None:
    model = build(name)
    batch = padded_batch(random_rows(4), model, left=False)
    expected = gradients(model, batch)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    projection = ProjectedGradients(parameters, width)
    with PerSampleEngine(model, parameters) as engine:
        engine.run(batch, projection)
    found = projection.features.clone()
    assert found.shape == (len(expected), projection.width)
    for parameter in parameters:
        shape = as_matrix(parameters[parameter]).shape
        a, b = sides(projection, parameter, shape)
        for sample, gradient in enumerate(expected):
            wanted = (a @ gradient[parameter] @ b).flatten()
            scale = float(gradient[parameter].norm()) + 1e-6
            assert torch.allclose(found[sample, projection.place(parameter)], wanted, rtol=1e-4, atol=2e-5 * scale)


def test_whole_gradients_keep_their_products() -> None:
    model = build("Llama")
    batch = padded_batch(random_rows(4), model, left=False)
    flat = torch.stack([torch.cat([g.flatten() for g in one.values()]) for one in gradients(model, batch)])
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    projection = ProjectedGradients(parameters, flat.shape[1])
    assert projection.width == flat.shape[1]
    with PerSampleEngine(model, parameters) as engine:
        engine.run(batch, projection)
    products = projection.features @ projection.features.mT
    assert torch.allclose(products, flat @ flat.mT, rtol=1e-4, atol=1e-6)


def test_projected_products_are_right_on_average() -> None:
    """Over 400 parameters of one shape with the same pair of gradients, each with a draw of its own."""
    torch.manual_seed(0)
    first, second = torch.randn(2, 24, 40)
    second = second + first
    parameters = {f"p{index}": nn.Parameter(torch.empty(24, 40)) for index in range(400)}
    projection = ProjectedGradients(parameters, 400 * 64)
    assert projection.size == 8
    projection.start(2, torch.device("cpu"))
    for name in parameters:
        projection.dense(name, 0, 0, torch.stack([first, second]))
    parts = projection.features.view(2, 400, 64)
    products = (parts[0] * parts[1]).sum(dim=1)
    exact = float((first * second).sum())
    error = float(products.std()) / 20
    assert error < 0.05 * abs(exact)
    assert abs(float(products.mean()) - exact) < 4 * error


@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5),
    width=st.integers(1, 3000),
)
@settings(max_examples=50, deadline=None)
def test_the_width_is_kept_and_used(shapes: list[tuple[int, int]], width: int) -> None:
    parameters = {f"p{index}": nn.Parameter(torch.empty(shape)) for index, shape in enumerate(shapes)}
    projection = ProjectedGradients(parameters, width)
    # One number a parameter is the least there is.
    assert projection.width <= max(width, len(shapes))
    longer = sum(min(projection.size + 1, rows) * min(projection.size + 1, columns) for rows, columns in shapes)
    assert longer > width or projection.width == sum(rows * columns for rows, columns in shapes)


def test_draws_depend_on_the_name_alone() -> None:
    parameters = {name: nn.Parameter(torch.empty(30, 20)) for name in ("a", "b")}
    gradient = torch.randn(1, 30, 20)

    def image(names: list[str], name: str) -> Tensor:
        projection = ProjectedGradients({each: parameters[each] for each in names}, 16 * len(names))
        projection.start(1, torch.device("cpu"))
        projection.dense(name, 0, 0, gradient)
        return projection.features[0, projection.place(name)].clone()

    assert torch.equal(image(["a", "b"], "b"), image(["b"], "b"))
    assert not torch.equal(image(["a", "b"], "a"), image(["a", "b"], "b"))


def test_memory_is_told_beforehand() -> None:
    parameters = {"a": nn.Parameter(torch.empty(30, 20)), "b": nn.Parameter(torch.empty(5))}
    projection = ProjectedGradients(parameters, 70)
    assert projection.size == 8
    # Both sides of `a`; neither of `b`, a row of five.
    assert projection_bytes(parameters, 70) == 4 * 8 * (30 + 20)
    assert projection_bytes(parameters, 10**6) == 0


def test_few_examples_or_a_small_model_are_held_whole() -> None:
    small = {"p": nn.Parameter(torch.empty(100, 1000))}
    large = {"p": nn.Parameter(torch.empty(2**14, 2**16, device="meta"))}
    assert feature_width(small, rows=1000, batch_size=16) == 100_000
    assert feature_width(large, rows=1000, batch_size=16) == 2**29 // 1000
    assert feature_width(large, rows=4, batch_size=16) == 2**29 // 16
    assert feature_width(large, rows=10**6, batch_size=16) == 2**16
