"""The compiled CPU kernel against sums in float64, and the reducers with it against the reducers without."""

import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graceful_forgetting.gradients import reducers
from graceful_forgetting.gradients.contributions import Dense, Rows
from graceful_forgetting.gradients.kernels import build, cpu
from graceful_forgetting.gradients.kernels.cpu import TileKernel, tile_kernel
from graceful_forgetting.gradients.reducers import ConfidenceTerms, SquaredGradients


@pytest.fixture(scope="module")
def kernel() -> TileKernel:
    found = tile_kernel()
    if found is None:
        pytest.skip(f"no C compiler, or {cpu.SWITCH}=0")
    return found


sizes = {"batch": st.integers(1, 5), "positions": st.integers(0, 9), "rows": st.integers(1, 40)}
columns = st.one_of(st.integers(1, 40), st.integers(60, 150))


def factors(batch: int, positions: int, rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    """left and right, with positions at which one of them is 0 and rows that do not follow one another in memory."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(batch, positions + 1, rows + 3, generator=generator)[:, 1:, 2 : rows + 2]
    right = torch.randn(positions, batch, columns, generator=generator).transpose(0, 1)
    left[:, ::3] = 0
    return left, right


def summed(gradients: Tensor, weight: Tensor) -> Tensor:
    return (gradients * weight).sum(dim=(1, 2))


@settings(max_examples=120, deadline=None)
@given(**sizes, columns=columns, seed=st.integers(0, 2**31), threads=st.integers(1, 3))
def test_terms_equal_sums_of_whole_gradients(
    kernel: TileKernel, batch: int, positions: int, rows: int, columns: int, seed: int, threads: int
) -> None:
    left, right = factors(batch, positions, rows, columns, seed)
    v, f = torch.randn(rows, columns), torch.rand(rows, columns)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        linear, quadratic, norms = kernel.terms(left, right, v, f, norms=True)
    finally:
        torch.set_num_threads(before)
    gradients = torch.einsum("btr,btc->brc", left.double(), right.double())
    # The linear sum may cancel: its error is judged by what is summed.
    size = summed(gradients.abs(), v.abs()).clamp(min=1e-12)
    assert ((linear - summed(gradients, v)).abs() / size).max() < 1e-6
    # So may each gradient over its positions, before it is squared.
    whole = torch.einsum("btr,btc->brc", left.double().abs(), right.double().abs()).square()
    assert norms is not None
    for found, square, weights in ((quadratic, gradients.square(), f), (norms, gradients.square(), torch.ones_like(f))):
        error = (found - summed(square, weights)).abs()
        assert (error / summed(whole, weights).clamp(min=1e-12)).max() < 1e-6


@settings(max_examples=80, deadline=None)
@given(**sizes, columns=columns, seed=st.integers(0, 2**31))
def test_squares_are_added_to_what_is_there(
    kernel: TileKernel, batch: int, positions: int, rows: int, columns: int, seed: int
) -> None:
    left, right = factors(batch, positions, rows, columns, seed)
    weights, totals = torch.rand(batch), torch.rand(rows, columns)
    gradients = torch.einsum("btr,btc->brc", left.double(), right.double()).square() * weights[:, None, None]
    before = totals.double()
    expected = before + gradients.sum(dim=0)
    squares = kernel.add_squares(left, right, weights, totals)
    # A gradient may cancel over its positions: its error is judged by what is summed.
    whole = torch.einsum("btr,btc->brc", left.double().abs(), right.double().abs()).square() * weights[:, None, None]
    error = (squares - gradients.sum(dim=(1, 2))).abs()
    assert (error / whole.sum(dim=(1, 2)).clamp(min=1e-12)).max() < 1e-6
    assert ((totals - expected).abs() <= 2e-6 * (before + whole.sum(dim=0))).all()


def test_a_sample_is_scored_alike_alone_and_in_a_batch_with_any_number_of_threads(kernel: TileKernel) -> None:
    left, right = factors(7, 30, 130, 200, seed=1)
    v, f = torch.randn(130, 200), torch.rand(130, 200)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = kernel.terms(left, right, v, f)[:2]
        torch.set_num_threads(1)
        alone = [kernel.terms(left[s : s + 1], right[s : s + 1], v, f)[:2] for s in range(7)]
    finally:
        torch.set_num_threads(before)
    for index, whole in enumerate(together):
        assert torch.equal(whole, torch.cat([terms[index] for terms in alone]))


def test_what_is_not_finite_stays_in_its_sample(kernel: TileKernel) -> None:
    left, right = factors(4, 6, 20, 70, seed=2)
    left[2, 4, 3] = torch.nan
    linear, quadratic, _ = kernel.terms(left, right, torch.randn(20, 70), torch.rand(20, 70))
    for sums in (linear, quadratic):
        assert sums.isfinite().tolist() == [True, True, False, True]


def reduced(reducer: reducers.Reducer, left: Tensor, right: Tensor, looked_up: Rows | None) -> None:
    """Hand a product, and rows beside it, to a reducer, as the engine does."""
    reducer.start(len(left), left.device)
    product = Dense(left, right)
    if reducer.product("w", left, right):
        if looked_up is not None:
            rows = looked_up.merged()
            taken = torch.empty_like(rows.values)
            taken[rows.places] = product.at(looked_up.ids).flatten(0, 1)
            reducer.sparse("w", rows.samples, rows.rows, rows.values, taken)
        return
    block = torch.empty(len(left), left.shape[2], right.shape[2])
    product.write_to(block, slice(None), slice(None))
    if looked_up is not None:
        looked_up.add_to(block, slice(0, len(left)), slice(0, left.shape[2]))
    reducer.dense("w", 0, 0, block)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4), rows=st.integers(1, 30), columns=columns, seed=st.integers(0, 2**31), tied=st.booleans()
)
def test_reducers_agree_with_and_without_the_kernel(
    kernel: TileKernel, batch: int, rows: int, columns: int, seed: int, tied: bool
) -> None:
    left, right = factors(batch, 5, rows, columns, seed)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(rows, (batch, 4), generator=generator)
    looked_up = Rows(ids, torch.randn(batch, 4, columns, generator=generator)) if tied else None
    parameters = {"w": nn.Parameter(torch.empty(rows, columns))}
    v = {"w": torch.randn(rows, columns, generator=generator)}
    f = {"w": torch.rand(rows, columns, generator=generator)}
    found = []
    for chosen in (kernel, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reducers, "gradient_kernel", lambda _, chosen=chosen: chosen)
            terms, squares = ConfidenceTerms(v, f, parameters, norms=True), SquaredGradients(parameters)
            squares.weights = torch.linspace(0.5, 2, batch)
            for reducer in (terms, squares):
                reduced(reducer, left, right, looked_up)
            assert terms.norms is not None
            found.append((terms.linear, terms.quadratic, terms.norms, squares.squares, squares.totals["w"].double()))
    # By what is summed over positions: the gradient itself may cancel, the rounding of its parts does not.
    summed = torch.einsum("btr,btc->brc", left.double().abs(), right.double().abs())
    if looked_up is not None:
        summed.index_put_((torch.arange(batch)[:, None], ids), looked_up.values.double().abs(), accumulate=True)
    squares = summed.square()
    weighted = squares * torch.linspace(0.5, 2, batch)[:, None, None]
    scales = (
        (summed * v["w"].abs()).sum(dim=(1, 2)),
        (squares * f["w"]).sum(dim=(1, 2)),
        squares.sum(dim=(1, 2)),
        weighted.sum(dim=(1, 2)),
        weighted.sum(dim=0),
    )
    for fast, slow, scale in zip(*found, scales, strict=True):
        assert ((fast - slow).abs() <= 2e-6 * scale).all()
    assert (found[0][4] >= 0).all()


def test_without_a_compiler_the_torch_path_is_taken_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv(cpu.SWITCH, raising=False)
    tile_kernel.cache_clear()
    try:
        with caplog.at_level("WARNING"):
            assert tile_kernel() is None
            assert tile_kernel() is None
    finally:
        tile_kernel.cache_clear()
    (record,) = caplog.records
    assert "no C compiler found" in record.message


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "broken-cc"
    compiler.write_text("#!/bin/sh\necho no licence >&2\nexit 3\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(build.NoCompilerError, match="no licence"):
        build.load_library()


def test_a_kernel_that_computes_wrong_values_is_not_used(
    kernel: TileKernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(self: TileKernel, left: Tensor, *_: Tensor, **__: bool) -> tuple[Tensor, Tensor, Tensor]:
        return (torch.ones(len(left), dtype=torch.float64),) * 3

    monkeypatch.setattr(TileKernel, "terms", wrong)
    tile_kernel.cache_clear()
    try:
        assert tile_kernel() is None
    finally:
        tile_kernel.cache_clear()
    assert "it computes Σ V g of 3 gradients" in caplog.text


def test_the_switch_turns_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.SWITCH, "0")
    tile_kernel.cache_clear()
    try:
        assert tile_kernel() is None
    finally:
        tile_kernel.cache_clear()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86-64 processors")
def test_the_switch_names_a_processor(kernel: TileKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRACEFUL_CACHE", str(tmp_path))
    try:
        for name in ("x86-64", "x86-64-v2", "x86-64"):
            monkeypatch.setenv(cpu.SWITCH, name)
            tile_kernel.cache_clear()
            assert tile_kernel() is not None
    finally:
        tile_kernel.cache_clear()
    assert len(list((tmp_path / "kernels").rglob("*.so"))) == 2, "one library a processor"


def test_it_is_compiled_once_for_several_processes(kernel: TileKernel, tmp_path: Path) -> None:
    code = "from graceful_forgetting.gradients.kernels.cpu import tile_kernel; assert tile_kernel() is not None"
    environment = os.environ | {"GRACEFUL_CACHE": str(tmp_path)}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    (library,) = (tmp_path / "kernels").rglob("*.so")
    written = library.stat().st_mtime_ns
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    assert library.stat().st_mtime_ns == written


@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_library_is_compiled_again(kernel: TileKernel, tmp_path: Path, kept: float) -> None:
    """Loading it would end the process with a bus error."""
    code = "from graceful_forgetting.gradients.kernels.cpu import tile_kernel; assert tile_kernel() is not None"
    environment = os.environ | {"GRACEFUL_CACHE": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    (library,) = (tmp_path / "kernels").rglob("*.so")
    whole = library.read_bytes()
    library.write_bytes(whole[: int(kept * len(whole))])
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tiles.so is damaged" in done.stderr
    assert len(library.read_bytes()) == len(whole)
