"""The check of batches: it finds what mixes rows, and nothing where rows are apart."""

from typing import Any

import pytest
from transformers import LlamaForCausalLM

from graceful_forgetting.cli import main
from graceful_forgetting.lab.bench.architectures import build, random_rows
from graceful_forgetting.lab.bench.invariance import LIMIT, Dependence, batch_dependence, in_words


def mix_rows(monkeypatch: pytest.MonkeyPatch, *, backward_only: bool) -> None:
    """Let the forward pass add a tenth of all rows' logits to each row's, or only the gradient of that."""
    forward = LlamaForCausalLM.forward

    def mixing(self: LlamaForCausalLM, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        total = output.logits.sum(dim=0, keepdim=True)
        output.logits = output.logits + 0.1 * (total - total.detach() if backward_only else total)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", mixing)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_rows_that_are_apart_show_no_difference(attention: str) -> None:
    model = build("Llama").eval()
    model.set_attn_implementation(attention)
    found = batch_dependence(model, random_rows(4))
    assert max(found) < LIMIT / 100


def test_a_forward_pass_that_mixes_rows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    mix_rows(monkeypatch, backward_only=False)
    found = batch_dependence(build("Llama").eval(), random_rows(4))
    assert found.loss > LIMIT
    assert found.gradient > LIMIT


def test_a_gradient_that_mixes_rows_is_found_where_the_loss_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    mix_rows(monkeypatch, backward_only=True)
    found = batch_dependence(build("Llama").eval(), random_rows(4))
    assert found.loss < LIMIT / 100
    assert found.gradient > LIMIT


def test_numbers_are_said_in_words() -> None:
    assert in_words(Dependence(2e-7, 3e-6)) == (
        "loss 2e-07, gradient 3e-06: scores do not depend on the rows beside a row"
    )
    assert "may depend" in in_words(Dependence(0, 2 * LIMIT))
    assert "may depend" in in_words(Dependence(2 * LIMIT, 0))


def test_env_prints_a_line_for_each_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- batches, ")]
    assert [line.split(":")[0].removeprefix("- batches, ") for line in lines] == [
        f"{dtype}, {attention}" for dtype in ("float32", "bfloat16") for attention in ("eager", "sdpa")
    ]
    assert all("do not depend" in line for line in lines[:2])
