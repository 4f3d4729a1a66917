"""`LWFTrainer` with a model in memory and `graceful run` with folders do the same: scores, selection and weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file

from formula import FORMULA
from graceful_forgetting import LWFTrainer
from graceful_forgetting.runs.assemble import assemble_result
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.recipe import parse_recipe
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.runtime.store import read_rows

LORA = {"use_lora": True, "lora_r": 4}
# More rows than are learned: the others are held out, for the fallback and for trial runs.
HOLD_OUT = {"learning_limit": 16, "validation_limit": 8}
CASES: dict[str, dict[str, Any]] = {
    "formula": FORMULA,
    "formula, LoRA": FORMULA | LORA,
    "F at the base model": FORMULA | {"posterior_estimator": "empirical", "posterior_fisher_at": "base"},
    "default": HOLD_OUT | {"forget_threshold": 0.0, "unlearn_every": 2},
    # So low that what the first update disturbs reaches it.
    "default threshold": HOLD_OUT | {"forget_strategy": "relative", "forget_threshold": 1e-4, "unlearn_every": 2},
    "default, LoRA": HOLD_OUT | LORA | {"forget_threshold": -1.0},
    "published": {"method": "published", "unlearn_every": 2},
    "published, LoRA": {"method": "published", "unlearn_every": 2} | LORA,
    "no reference run": {
        "confidence_scorer": "pairwise_conflict",
        "forget_fraction": 0.5,
        "forget_strategy": "highest",
    },
    "trials": FORMULA | HOLD_OUT | {"forget_trials": "during", "unlearn_objective": "gradient_ascent"},
    "trials by the default score": HOLD_OUT
    | {"forget_trials": "during", "forget_strategy": "relative", "forget_threshold": 1e-4},
    "fallback": FORMULA | HOLD_OUT | {"unlearn_objective": "gradient_ascent", "unlearn_learning_rate": 0.3},
    "whole text": FORMULA | {"completion_only_loss": False},
    "baseline": FORMULA | {"baseline": "afec", "baseline_weight": 30.0, "unlearn_every": 2},
    "baseline alone": FORMULA | {"baseline": "f_learning", "unlearn_every": 0, "confidence_scorer": "loss"},
}


@pytest.fixture
def pipeline(recipe: Path, tmp_path: Path) -> Any:
    """The stages of the recipe of this folder with changes, in a run directory of their own."""

    def make(changes: dict[str, Any], folder: str = "run") -> Pipeline:
        content = yaml.safe_load(recipe.read_text())
        kept = {name: value for name, value in content.items() if name not in FORMULA and name != "forget_fraction"}
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump(kept | {"output_dir": str(tmp_path / folder)} | changes))
        return Pipeline(*parse_recipe(str(path), []))

    return make


@pytest.fixture
def trainer(pipeline: Any, tmp_path: Path) -> Any:
    """A trainer of the same recipe, as a script has it: with rows of text and a model in memory."""

    def make(changes: dict[str, Any], folder: str = "script") -> LWFTrainer:
        other = pipeline(changes, folder)
        sources = other.inputs.sources
        held_out = sources.learning_validation
        columns = ["prompt", "completion"]
        return LWFTrainer(
            other.inputs.loader.trainable(sources.model, other.lwf.seed),
            other.lwf,
            train_dataset=sources.learning_train.select_columns(columns),
            eval_dataset=None if held_out is None else held_out.select_columns(columns),
            processing_class=other.inputs.tokenizer,
            forget_dataset={name: source.answers or source.prompts for name, source in sources.forgetting.items()},
        )

    return make


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


def scores(rows: Dataset) -> list[float]:
    return list(rows["forgetting_confidence"])


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_scores_selection_and_weights_are_equal(
    pipeline: Any, trainer: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run = pipeline(changes)
    finished = run.lwf_run(run.seeds[0])
    script = trainer(changes)
    script.train()
    read = run.method.stages_read()
    if "scores" in read:
        scored = read_rows(run.method.scores().path / "rows")
        assert list(script.preparation.scored["input_ids"]) == list(scored["input_ids"])
        assert scores(script.preparation.scored) == scores(scored)
        chosen = read_rows(run.method.selection().path / "rows")
        assert list(script.preparation.selected["source_index"]) == list(chosen["source_index"])
        audit = read_json(run.method.selection().path / "selection.json")
        assert script.preparation.audit == audit
        assert (audit["settings"]["learned"] is None) == (changes.get("forget_strategy") != "relative")
        assert len(chosen) > 0 or audit["trials"]["chosen"] == "nothing"
    script.save_model(str(tmp_path / "saved"))
    assert isinstance(script.model, PeftModel) == ("use_lora" in changes)
    expected = trained_weights(finished.path)
    found = trained_weights(tmp_path / "saved")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    assert script.unlearning_summary()["updates"] == finished.detail["unlearning_updates"]


def test_given_answers_are_scored_alike(pipeline: Any, trainer: Any, tmp_path: Path, forgetting: Dataset) -> None:
    forgetting.to_json(tmp_path / "myths" / "train.jsonl")
    changes = FORMULA | {"forget_answers": "given", "forget_fraction": 0.5}
    run, script = pipeline(changes), trainer(changes)
    scored, chosen = (read_rows(stage.path / "rows") for stage in (run.method.scores(), run.method.selection()))
    preparation = script.prepare_unlearning()
    assert scores(preparation.scored) == scores(scored)
    assert list(preparation.selected["source_index"]) == list(chosen["source_index"])


def test_answers_that_come_scored_are_selected_by_their_scores(
    pipeline: Any, trainer: Any, tmp_path: Path, forgetting: Dataset
) -> None:
    scored = forgetting.add_column("forgetting_confidence", [float((5 * i) % 16) for i in range(len(forgetting))])
    scored.to_json(tmp_path / "myths" / "train.jsonl")
    changes = FORMULA | {"forget_count": 4, "unlearn_every": 2}
    run, script = pipeline(changes), trainer(changes)
    finished = run.lwf_run(run.seeds[0])
    script.train()
    chosen = read_rows(run.method.selection().path / "rows")
    assert sorted(chosen["forgetting_confidence"], reverse=True) == [15.0, 14.0, 13.0, 12.0]
    assert list(script.preparation.selected["source_index"]) == list(chosen["source_index"])
    assert not (tmp_path / "run" / "self_knowledge").exists()
    script.save_model(str(tmp_path / "saved"))
    found = trained_weights(tmp_path / "saved")
    assert all(torch.equal(found[name], weight) for name, weight in trained_weights(finished.path).items())
    result, samples = assemble_result(run)
    assert result.selection is not None
    assert (result.selection.chosen, len(samples)) == (4, 16)


@pytest.mark.parametrize("interrupted", ["script", "run"])
def test_a_resumed_one_equals_the_other(
    pipeline: Any, trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    original = LWFTrainer.training_step

    def interrupt(self: LWFTrainer, *positional: Any, **keywords: Any) -> torch.Tensor:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *positional, **keywords)

    run, script = pipeline(FORMULA | {"forget_fraction": 0.5}), trainer(FORMULA | {"forget_fraction": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(LWFTrainer, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.lwf_run(run.seeds[0]) if interrupted == "run" else script.train()
    if interrupted == "run":
        finished = pipeline(FORMULA | {"forget_fraction": 0.5}).lwf_run(run.seeds[0])
        assert finished.detail["resumed_from"] == "checkpoint-3"
        script.train()
    else:
        finished = run.lwf_run(run.seeds[0])
        script = trainer(FORMULA | {"forget_fraction": 0.5})
        script.train(resume_from_checkpoint=True)
    script.save_model(str(tmp_path / "saved"))
    found = trained_weights(tmp_path / "saved")
    for name, weight in trained_weights(finished.path).items():
        assert torch.equal(found[name], weight), name
