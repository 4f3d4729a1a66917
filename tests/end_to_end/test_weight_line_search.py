"""Baseline `weight_line_search`: the best point on the line from the base model, from a toy to the command line."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.baselines.weight_line_search import LAMBDAS, WeightLineSearch
from graceful_forgetting.cli import main
from graceful_forgetting.results.result import RunResult


def on_a_parabola(best: float) -> tuple[float, dict[str, float | None], torch.Tensor]:
    """λ*, the losses and the weights of a line from (1, 2) to (3, 2) whose loss is lowest at `best`."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    baseline = WeightLineSearch(SimpleNamespace(model=model))  # type: ignore[arg-type]
    with torch.no_grad():
        model.weight[0, 0] = 3.0
    found = baseline.after_training(model, lambda: (model.weight[0, 0].item() - (1 + 2 * best)) ** 2)  # type: ignore[arg-type]
    return found.chosen, found.losses, model.weight.detach()


@pytest.mark.parametrize(("best", "chosen"), [(1.28, 1.3), (0.55, 0.5), (0.98, 1.0), (9.0, 2.0), (-1.0, 0.5)])
def test_the_lowest_point_of_a_parabola_is_found(best: float, chosen: float) -> None:
    found, losses, weights = on_a_parabola(best)
    assert found == chosen
    assert weights[0].tolist() == pytest.approx([1 + 2 * chosen, 2])
    assert losses == pytest.approx({f"{share:g}": (2 * (share - best)) ** 2 for share in LAMBDAS}, abs=1e-5)


@pytest.mark.parametrize("loss", [1.0, math.nan], ids=["all equal", "none finite"])
def test_without_a_reason_to_move_the_weights_stay_bit_for_bit(loss: float) -> None:
    model = nn.Linear(3, 3)
    baseline = WeightLineSearch(SimpleNamespace(model=model))  # type: ignore[arg-type]
    with torch.no_grad():
        model.weight.add_(torch.randn(3, 3))
    trained = model.weight.detach().clone()
    found = baseline.after_training(model, lambda: loss)  # type: ignore[arg-type]
    assert found.chosen == 1
    assert torch.equal(model.weight, trained)
    assert set(found.losses.values()) == {None if math.isnan(loss) else 1.0}


def build(folder: Path, model: nn.Module, tokenizer: Any, learning: Dataset, **changes: Any) -> LWFTrainer:
    settings = {
        "baseline": "weight_line_search",
        "learning_rate": 3e-3,
        "peft_config": None,
        "eval_dataset": learning.select(range(5)),
    }
    settings |= changes
    arguments = {name: settings.pop(name) for name in ("peft_config", "eval_dataset")}
    args = LWFConfig(
        output_dir=str(folder),
        max_steps=4,
        unlearn_every=0,
        save_strategy="no",
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        **settings,
    )
    return LWFTrainer(model, args, train_dataset=learning, processing_class=tokenizer, **arguments)


def test_the_weights_are_on_the_line_from_the_base_model_to_plain_fine_tuning(
    tmp_path: Path, make_model: Any, tokenizer: Any, learning: Dataset
) -> None:
    base, plain = make_model(), make_model()
    build(tmp_path / "plain", plain, tokenizer, learning, baseline=None).train()
    trainer = build(tmp_path / "search", make_model(), tokenizer, learning)
    trainer.train()
    assert trainer.line_search is not None
    chosen, losses = trainer.line_search.chosen, trainer.line_search.losses
    assert chosen > 1, "learning for four updates goes less far than would be best"
    assert losses[f"{chosen:g}"] == min(losses.values()) == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-5)
    ends = zip(base.parameters(), plain.parameters(), trainer.model.parameters(), strict=True)
    for start, end, found in ends:
        torch.testing.assert_close(found, start + chosen * (end - start), rtol=1e-5, atol=1e-6)


def test_an_adapter_is_scaled_in_what_it_adds_to_the_weights(
    tmp_path: Path, make_model: Any, tokenizer: Any, learning: Dataset
) -> None:
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights="gaussian")
    found = {}
    for name in (None, "weight_line_search"):
        torch.manual_seed(0)
        trainer = build(
            tmp_path / str(name), make_model(), tokenizer, learning, baseline=name, peft_config=lora, learning_rate=0.03
        )
        trainer.train()
        found[name] = dict(trainer.model.named_parameters())
    chosen = trainer.line_search.chosen  # type: ignore[union-attr]
    assert chosen != 1
    for name, value in found[None].items():
        factor = chosen if "lora_B" in name else 1
        torch.testing.assert_close(found["weight_line_search"][name], factor * value, rtol=1e-5, atol=1e-7)
    dora = build(tmp_path / "dora", make_model(), tokenizer, learning, peft_config=LoraConfig(r=2, use_dora=True))
    with pytest.raises(ValueError, match=r"baseline='weight_line_search' .* Use LoRA as it is by default"):
        dora.train()


def test_without_held_out_rows_it_is_refused_by_name(
    tmp_path: Path, make_model: Any, tokenizer: Any, learning: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"baseline='weight_line_search' needs held-out learning rows .*eval_dataset"):
        build(tmp_path, make_model(), tokenizer, learning, eval_dataset=None)


def test_a_run_stores_and_says_where_the_line_search_ended(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--config", str(recipe), "--unlearn_every", "0", "--baseline", "weight_line_search"]
    assert main(["run", *flags, "--learning_limit", "24"]) == 2
    assert "baseline='weight_line_search' needs held-out learning rows" in capsys.readouterr().err
    assert main(["run", *flags, "--learning_limit", "16"]) == 0
    shown = capsys.readouterr().out
    folder = tmp_path / "run"
    (run,) = (run for run in RunResult.load(folder / "result.json").runs if run.arm == "lwf")
    assert run.line_search is not None
    chosen = run.line_search.chosen
    assert list(run.line_search.losses) == [f"{share:g}" for share in LAMBDAS]
    assert run.line_search.losses[f"{chosen:g}"] == min(run.line_search.losses.values())
    found = f"the line search from the base model (0) to the trained one (1) ended at {chosen:g}"
    assert f"weight line search, seed 3: {found}" in " ".join(shown.split())
    assert found in (folder / "report.html").read_text()
    assert json.loads((folder / "lwf" / "seed-3" / "unlearning.json").read_text())["line_search"]["chosen"] == chosen
    plain, moved, base = (
        load_file(place / "model.safetensors")
        for place in (folder / "plain" / "seed-3", folder / "lwf" / "seed-3", tmp_path / "model")
    )
    for name, end in plain.items():
        torch.testing.assert_close(moved[name], base[name] + chosen * (end - base[name]), rtol=1e-5, atol=1e-6)
    assert main(["advise", "--output_dir", str(folder)]) == 0
    assert f"median of 1 run(s): {chosen:.3g} (" in capsys.readouterr().out
