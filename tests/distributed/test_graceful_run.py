"""`graceful run` in two processes comes to what it comes to in one, and one of them writes it."""

import json
from pathlib import Path

import pytest
import yaml
from datasets import load_from_disk

from graceful_forgetting.cli import main
from graceful_forgetting.results.result import RunResult


@pytest.fixture
def recipe(tmp_path, make_model, tokenizer, learning, forgetting) -> Path:
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, rows in (("learning", learning), ("forgetting", forgetting)):
        (tmp_path / name).mkdir()
        for split, part in (("train", rows), ("test", rows.select(range(5)))):
            rows_of_split = "".join(json.dumps(row) + "\n" for row in part)
            (tmp_path / name / f"{split}.jsonl").write_text(rows_of_split)
    content = {
        "model_name_or_path": str(tmp_path / "model"),
        "learning_task": str(tmp_path / "learning"),
        "forgetting_tasks": [str(tmp_path / "forgetting")],
        "max_steps": 6,
        "learning_rate": "3e-3",
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "elicitation_max_new_tokens": 4,
        "forget_fraction": 0.5,
        "unlearn_every": 2,
        "eval_max_new_tokens": 4,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def flags(recipe: Path, name: str, batch: int) -> list[str]:
    sizes = ["--per_device_train_batch_size", str(batch), "--per_device_unlearn_batch_size", str(batch // 2)]
    return ["--config", str(recipe), "--output_dir", str(recipe.with_name(name)), *sizes]


@pytest.mark.parametrize(("config", "lora"), [("ddp", False), ("fsdp2", True)])
def test_two_processes_come_to_the_result_of_one(recipe, tmp_path, python, config, lora):
    adapter = ["--use_lora", "true", "--lora_r", "4"] if lora else []
    assert main(["run", *flags(recipe, "one", 8), *adapter]) == 0
    command = ["run", "--accelerate_config", config, "--num_processes", "2", *flags(recipe, "two", 4), *adapter]
    lines = python("-m", "graceful_forgetting.cli", *command).splitlines()
    # Within a line: two processes that say so at once may share one.
    assert any("FSDP on the CPU" in line for line in lines) == (config == "fsdp2")

    one, two = (RunResult.load(tmp_path / name / "result.json") for name in ("one", "two"))
    for stage in two.stages:
        assert stage.status == "run"
        assert sum(line.startswith(f"{stage.name}: running") for line in lines) == 1
    assert [stage.name for stage in one.stages] == [stage.name for stage in two.stages]
    assert not [path for path in (tmp_path / "two").rglob("*") if ".partial-" in path.name]

    scored = [load_from_disk(str(tmp_path / name / "scores" / "rows")) for name in ("one", "two")]
    assert scored[0]["completion"][:] == scored[1]["completion"][:]
    # Differences of losses of some nats, of which float32 logits give seven digits.
    first, second = (rows["forgetting_confidence"][:] for rows in scored)
    assert first == pytest.approx(second, rel=1e-3, abs=1e-6)
    assert one.selection is not None
    assert two.selection is not None
    assert one.selection.chosen == two.selection.chosen
    for left, right in zip(one.runs, two.runs, strict=True):
        assert (left.arm, left.seed, left.unlearn_updates) == (right.arm, right.seed, right.unlearn_updates)
        assert [entry.loss for entry in left.training_log] == pytest.approx(
            [entry.loss for entry in right.training_log], rel=2e-3
        )
        for task, metrics in left.metrics.items():
            assert metrics.nll_per_token == pytest.approx(right.metrics[task].nll_per_token, rel=2e-3)
