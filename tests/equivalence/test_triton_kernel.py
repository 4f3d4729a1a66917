"""The Triton kernels against sums in float64: on a GPU where there is one, in Triton's interpreter everywhere.

The interpreter has to be asked for before Triton is imported, so tests run in it in a process of their own.
"""

import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from graceful_forgetting.gradients.kernels import gpu, gradient_kernel
from graceful_forgetting.gradients.kernels.agreement import disagreement
from graceful_forgetting.gradients.kernels.gpu import Tiling, add_squares, confidence_terms

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed; it has wheels for Linux on x86-64 only"
)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SMALL = Tiling(16, 32, 16, warps=4, stages=2)


@pytest.fixture(scope="module")
def device() -> torch.device:
    """Where the kernels run."""
    if INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU; test_in_the_interpreter runs this test without one")
    if gpu.triton_kernel(torch.device("cuda")) is None:
        pytest.fail("there is a GPU, but the kernels do not run on it; the log says why")
    return torch.device("cuda")


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="starts this process")
def test_in_the_interpreter() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-q",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-k",
        "kernel_",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tiling | None]:
    """left, right, V, F, sample weights and tiling, with sizes on either side of a tile's and every kind of strides."""
    batch, positions = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    # The second range lies around the largest tile.
    rows, columns = (draw(st.integers(1, 50) | st.integers(125, 130)) for _ in range(2))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    left = _strided(draw, (batch, positions, rows), generator).to(dtype)
    right = _strided(draw, (batch, positions, columns), generator).to(dtype)
    v = torch.randn(rows, columns, generator=generator)
    f = torch.rand(rows, columns, generator=generator)
    if draw(st.booleans()):
        v, f = v.bfloat16(), f.bfloat16()
    weights = torch.rand(batch, generator=generator)
    tiling = SMALL if max(rows, columns) <= 50 and draw(st.booleans()) else None
    return left, right, v, f, weights, tiling


def _strided(draw: st.DrawFn, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    batch, positions, columns = shape
    layout = draw(st.sampled_from(["contiguous", "transposed", "positions first", "part", "repeated"]))
    if layout == "transposed":
        return torch.randn(batch, columns, positions, generator=generator).mT
    if layout == "positions first":
        return torch.randn(positions, batch, columns, generator=generator).transpose(0, 1)
    if layout == "part":
        return torch.randn(batch, 2 * positions, columns + 3, generator=generator)[:, ::2, 1:-2]
    if layout == "repeated":
        return torch.randn(1, positions, columns, generator=generator).expand(shape)
    return torch.randn(shape, generator=generator)


def gradients(left: Tensor, right: Tensor) -> Tensor:
    """Every G_s, in float64."""
    return torch.einsum("str,stc->src", left.double().cpu(), right.double().cpu())


def on(device: torch.device, *tensors: Tensor) -> list[Tensor]:
    """Moved without a change of strides."""
    if device.type == "cpu":
        return list(tensors)
    return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device).copy_(t) for t in tensors]


# The interpreter takes tens of milliseconds for what a GPU does at once.
property_test = settings(
    max_examples=15 if INTERPRETED else 100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@needs_triton
@property_test
@given(problem=problems())
def test_kernel_confidence_terms(device: torch.device, problem: tuple) -> None:
    left, right, v, f, _, tiling = problem
    linear, quadratic = confidence_terms(*on(device, left, right, v, f), tiling)
    full = gradients(left, right)
    assert linear.dtype == quadratic.dtype == torch.float64
    error = (linear.cpu() - (full * v.double()).sum(dim=(1, 2))).abs()
    assert (error <= 1e-5 * full.norm(dim=(1, 2)) * v.double().norm()).all()
    torch.testing.assert_close(quadratic.cpu(), (full**2 * f.double()).sum(dim=(1, 2)), rtol=1e-5, atol=0)


@needs_triton
@property_test
@given(problem=problems())
def test_kernel_add_squares(device: torch.device, problem: tuple) -> None:
    left, right, _, f, weights, tiling = problem
    before = f.float()
    (totals,) = on(device, before.clone())
    squares = add_squares(*on(device, left, right), totals, *on(device, weights), tiling)
    weighted = gradients(left, right) ** 2 * weights.double()[:, None, None]
    torch.testing.assert_close(squares.cpu(), weighted.sum(dim=(1, 2)), rtol=1e-5, atol=0)
    # An element is a sum over positions that can cancel: its error is set against what was summed.
    summed = gradients(left.abs(), right.abs()) ** 2 * weights.double()[:, None, None]
    error = (totals.cpu() - (before + weighted.sum(dim=0))).abs()
    assert (error <= 1e-5 * (before + summed.sum(dim=0))).all()


@needs_triton
def test_kernel_same_bits(device: torch.device) -> None:
    """Again, and of every sample alone: no result depends on timing or on the rest of the batch."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(5, 40, 70, generator=generator), torch.randn(5, 40, 90, generator=generator)
    v, f = torch.randn(70, 90, generator=generator), torch.rand(70, 90, generator=generator)
    left, right, v, f = on(device, left, right, v, f)
    together = torch.stack(confidence_terms(left, right, v, f))
    assert torch.equal(together, torch.stack(confidence_terms(left, right, v, f)))
    alone = [torch.stack(confidence_terms(left[s : s + 1], right[s : s + 1], v, f)) for s in range(5)]
    assert torch.equal(together, torch.cat(alone, dim=1))
    totals = [torch.zeros_like(f) for _ in range(2)]
    assert torch.equal(*(add_squares(left, right, total) for total in totals))
    assert torch.equal(*totals)


@needs_triton
def test_kernel_not_a_number_stays_in_its_sample(device: torch.device) -> None:
    """A gradient that is not finite shows in its own sample's terms, where it is looked for, and nowhere else."""
    left, right, weight = torch.ones(4, 3, 20), torch.ones(4, 3, 30), torch.ones(20, 30)
    left[1, 2, 5] = torch.nan
    right[2, 0, 29] = torch.inf
    for terms in confidence_terms(*on(device, left, right, weight, weight)):
        assert terms.isfinite().tolist() == [True, False, False, True]
    assert add_squares(*on(device, left, right, weight)).isfinite().tolist() == [True, False, False, True]


@needs_triton
def test_kernel_mixed_types_meet_in_float32(device: torch.device) -> None:
    left, right, weight = on(device, torch.ones(1, 2, 3).double(), torch.ones(1, 2, 4).bfloat16(), torch.ones(3, 4))
    linear, quadratic = confidence_terms(left, right, weight, weight.double())
    assert (float(linear), float(quadratic)) == (24.0, 48.0)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_nothing_to_sum(shape: tuple[int, int, int, int]) -> None:
    batch, positions, rows, columns = shape
    left, right = torch.ones(batch, positions, rows), torch.ones(batch, positions, columns)
    totals = torch.ones(rows, columns)
    expected = torch.zeros(batch, dtype=torch.float64)
    for result in (*confidence_terms(left, right, totals, totals), add_squares(left, right, totals)):
        assert torch.equal(result, expected)
    assert (totals == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"right": torch.ones(2, 4, 5)}, r"left and right have shapes \(2, 3, 4\) and \(2, 4, 5\)"),
        ({"left": torch.ones(3, 4)}, "left and right have shapes"),
        ({"totals": torch.ones(5, 4)}, r"totals has shape \(5, 4\); left and right make \(4, 5\)"),
        ({"totals": torch.ones(5, 4).T}, r"totals is torch.float32 with strides \(1, 4\)"),
        ({"totals": torch.ones(4, 5).double()}, "totals is torch.float64"),
        ({"sample_weights": torch.ones(3)}, r"sample_weights has shape \(3,\); left has 2 samples"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Tensor], message: str) -> None:
    arguments = {"left": torch.ones(2, 3, 4), "right": torch.ones(2, 3, 5), "totals": torch.ones(4, 5)} | change
    with pytest.raises(ValueError, match=message):
        add_squares(**arguments)


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"quadratic_weight has shape \(4, 1\); left and right make \(4, 5\)"):
        confidence_terms(torch.ones(2, 3, 4), torch.ones(2, 3, 5), torch.ones(4, 5), torch.ones(4, 1))


def test_not_available_on_a_cpu() -> None:
    assert gpu.triton_kernel(torch.device("cpu")) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which Triton works")
@pytest.mark.parametrize(("capability", "reason"), [((9, 0), "CUDA"), ((7, 5), "(7, 5) is too old")])
def test_a_gpu_on_which_triton_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capability: tuple[int, int], reason: str
) -> None:
    """The torch path is taken, and why is said once."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu._compared.cache_clear()
    for _ in range(2):
        assert gpu.triton_kernel(torch.device("cuda", 0)) is None
    gpu._compared.cache_clear()
    (record,) = caplog.records
    assert "Scoring on cuda:0 without its Triton kernel, which is slower" in record.message
    assert reason in record.message


@needs_triton
def test_kernel_agrees_with_torch(device: torch.device) -> None:
    """What is asked on a device before the kernel is used there."""
    types = [torch.float32, torch.bfloat16]
    assert disagreement(gpu.TritonKernel(), device, types) is None


@needs_triton
@pytest.mark.parametrize("sums", ["confidence_terms", "add_squares"])
def test_kernel_that_disagrees_is_found(device: torch.device, monkeypatch: pytest.MonkeyPatch, sums: str) -> None:
    """The kernels on all but the last column, as with a tile that is masked wrongly."""
    right_ones = getattr(gpu, sums)

    def wrong(left: Tensor, right: Tensor, *others: Tensor) -> object:
        right = right.clone()
        right[..., -1] = 0
        return right_ones(left, right, *others)

    monkeypatch.setattr(gpu, sums, wrong)
    assert "gradients of 13 x 83 in torch.float32" in str(disagreement(gpu.TritonKernel(), device, [torch.float32]))


class TorchKernel:
    """The sums in torch on the CPU, whatever the device; `factor` makes them wrong."""

    factor = 1.0

    def terms(
        self, left: Tensor, right: Tensor, v: Tensor, f: Tensor, *, norms: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        full = gradients(left, right)
        squares = full**2
        sums = ((full * v).sum(dim=(1, 2)), (squares * f).sum(dim=(1, 2)), squares.sum(dim=(1, 2)))
        return sums[0], self.factor * sums[1], sums[2] if norms else None

    def add_squares(self, left: Tensor, right: Tensor, weights: Tensor, totals: Tensor) -> Tensor:
        weighted = gradients(left, right) ** 2 * weights[:, None, None]
        totals += weighted.sum(dim=0)
        return weighted.sum(dim=(1, 2))


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_kernel_is_used_only_where_it_agrees(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, factor: float
) -> None:
    """On a GPU that is the CPU by another name."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gpu, "TritonKernel", TorchKernel)
    monkeypatch.setattr(TorchKernel, "factor", factor)
    compare = gpu.disagreement
    monkeypatch.setattr(gpu, "disagreement", lambda kernel, _, types: compare(kernel, torch.device("cpu"), types))
    gpu._compared.cache_clear()
    with caplog.at_level(logging.INFO, logger="graceful_forgetting"):
        used = [gradient_kernel(torch.device("cuda", 0)) for _ in range(2)]
    gpu._compared.cache_clear()
    (record,) = caplog.records
    if factor == 1.0:
        assert all(isinstance(kernel, TorchKernel) for kernel in used)
        assert record.levelno == logging.INFO
        assert "with its Triton kernel, which agrees with torch there" in record.message
    else:
        assert used == [None, None]
        assert record.levelno == logging.WARNING
        assert "it computes Σ F g² of 3 gradients of 13 x 83 in torch.float32 wrong" in record.message
