"""The recipe gsm8k / dental on vendored real rows, with the base model in the package."""

import json
from pathlib import Path

import pytest
from datasets import load_from_disk
from safetensors import safe_open

from graceful_forgetting.cli import main
from graceful_forgetting.results.result import RunResult

RECIPE = Path(__file__).parents[2] / "recipes" / "gsm8k_forget_dental.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    # Fewer steps and rows than the recipe has: the same stages, in test time.
    flags = ["--output_dir", str(folder / "run"), "--learning_limit", "40", "--forgetting_limit", "30"]
    # So little forgetting helps nothing, and what the guard would put in its place is the plain model.
    flags += ["--eval_limit", "6", "--max_steps", "11", "--guard_fallback", "false"]
    flags += ["--per_device_train_batch_size", "2", "--per_device_unlearn_batch_size", "2"]
    flags += ["--elicitation_max_new_tokens", "16", "--eval_max_new_tokens", "24", "--forget_fraction", "0.33"]
    assert main(["run", "--config", str(RECIPE), *flags]) == 0
    return folder / "run"


def test_self_knowledge_are_answers_to_dental_prompts(run):
    rows = load_from_disk(str(run / "self_knowledge" / "rows"))
    counts = json.loads((run / "self_knowledge" / "counts.json").read_text())
    assert counts["prompts"] == 30
    assert counts["kept"] + counts["duplicates"] + counts["empty"] == 30
    assert len(rows) == counts["kept"] > 0
    for row in rows:
        assert "A." in row["prompt"]
        assert row["completion"].strip()
        assert 1 <= row["completion_tokens"] <= 16
        assert row["mean_log_probability"] < 0
        assert row["finish_reason"] in ("stop", "length")


def test_posterior_names_its_origin(run):
    with safe_open(run / "posterior" / "posterior" / "posterior.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["graceful_forgetting"])
        names = set(file.keys())
    assert header["estimator"] == "sampled"
    assert header["num_samples"] == 40
    assert header["model"]["class"] == "LlamaForCausalLM"
    assert {"data", "versions", "seed"} <= set(header)
    assert {name.split(".", 1)[0] for name in names} == {"mean", "precision"}


def test_scores_and_selection_agree(run):
    scored = load_from_disk(str(run / "scores" / "rows"))
    selected = load_from_disk(str(run / "selection" / "rows"))
    audit = json.loads((run / "selection" / "selection.json").read_text())
    assert len(selected) == audit["chosen"] == round(0.33 * len(scored))
    cut = sorted(scored["forgetting_confidence"], reverse=True)[len(selected) - 1]
    assert audit["cut_score"] == cut
    assert min(selected["forgetting_confidence"]) == cut
    assert [row["index"] for row in audit["rows"]] == selected["source_index"]


def test_models_and_logs(run):
    for arm in ("plain", "lwf"):
        folder = run / arm / "seed-42"
        assert (folder / "model.safetensors").is_file()
        assert (folder / "tokenizer.json").is_file()
        assert json.loads((folder / "training_log.json").read_text())
    unlearning = json.loads((run / "lwf" / "seed-42" / "unlearning.json").read_text())
    assert unlearning["updates"] == 2
    plain, lwf = ((run / arm / "seed-42" / "model.safetensors").read_bytes() for arm in ("plain", "lwf"))
    assert plain != lwf


def test_result_and_report(run):
    result = RunResult.load(run / "result.json")
    assert set(result.summary.tasks) == {"gsm8k", "dental"}
    for training_run in result.runs:
        assert training_run.metrics["gsm8k"].total == 6
        assert training_run.metrics["gsm8k"].bits_per_byte > 0
        assert training_run.metrics["dental"].role == "forgetting"
    assert {stage.name for stage in result.stages} >= {"self_knowledge", "posterior", "scores", "selection"}
    assert all(stage.seconds > 0 for stage in result.stages)
    assert result.config["learning_task"] == "gsm8k"
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "gsm8k" in report
    assert "dental" in report
