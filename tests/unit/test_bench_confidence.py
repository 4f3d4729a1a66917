"""The benchmark's own arithmetic: what it compares is compared right, and what fails is reported."""

import pytest
import torch

from graceful_forgetting.cli import main
from graceful_forgetting.lab.bench import confidence
from graceful_forgetting.lab.bench.architectures import largest_error
from graceful_forgetting.lab.bench.confidence import AT_SCALE, benchmark_confidence, table
from graceful_forgetting.lab.bench.methods import METHODS, SHAPES, Run, Setting, oracle


@pytest.fixture(autouse=True)
def keep_threads() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("prompt_tokens", [0, 4])
@pytest.mark.parametrize("name", ["engine", "one backward a sample", "vmap(grad)"])
def test_every_method_computes_the_same_terms(name: str, prompt_tokens: int, tied: bool) -> None:
    setting = Setting(8, prompt_tokens, 2, tied)
    found, expected = METHODS[name](setting)(), oracle(setting)()
    assert found is not None
    assert expected is not None
    assert largest_error(found, expected) <= 1e-5


def test_a_method_that_fails_is_a_row_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(setting: Setting) -> Run:
        raise NotImplementedError("no rule for this")

    monkeypatch.setitem(METHODS, "BackPACK", failing)
    said: list[str] = []
    result = benchmark_confidence(
        [Setting(6, 0, 2)], repetitions=2, threads=1, methods=["engine", "BackPACK"], announce=said.append
    )
    assert said[0] == "measuring forward + backward, engine, BackPACK in 1 settings, memory first"
    assert said[1:] == [f"{part}, 1 of 1: 7M, 2 samples of 6 tokens, 0 of the prompt" for part in ("memory", "time")]
    rows = {row["method"]: row for row in result["rows"]}
    assert rows["BackPACK"]["failure"] == "NotImplementedError: no rule for this"
    assert rows[confidence.UNIT]["ratio"] == 1
    assert rows["engine"]["error"] <= 1e-5
    assert rows["engine"]["peak_bytes"] > 0
    assert len(rows["engine"]["all_seconds"]) == 2
    text = table(result)
    assert "no rule for this" in text
    assert len(text.splitlines()) == 4


def test_a_larger_model_is_measured_with_what_it_can_bear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "135M", {**SHAPES["135M"], "num_hidden_layers": 1, "vocab_size": 4096})
    result = benchmark_confidence([Setting(6, 0, 2, tied=True, shape="135M")], repetitions=2, threads=1)
    assert [row["method"] for row in result["rows"]] == list(AT_SCALE)
    assert result["rows"][1]["error"] <= 1e-5
    assert [line.split()[0] for line in table(result).splitlines()[1:]] == ["135M", "135M"]


def test_the_large_shape_is_that_of_the_small_language_model() -> None:
    with torch.device("meta"):
        model = Setting(8, 0, 1, tied=True, shape="135M").model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--repetitions", "1"], "repetitions is 1"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--tokens", "2"], "4"),
    ],
)
def test_bad_flags_are_refused_before_any_work(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "confidence", *flags]) == 2
    assert message in capsys.readouterr().err
