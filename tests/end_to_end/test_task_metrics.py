"""YAML tasks, likelihood metrics, neutral text and lm-evaluation-harness, from the command line to result.json."""

import json
import random
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest
import torch
import yaml
from datasets import Dataset

from graceful_forgetting.cli import main
from graceful_forgetting.evaluation.evaluate import EvaluationRows, evaluate_items
from graceful_forgetting.evaluation.lm_eval import evaluate_with_lm_eval
from graceful_forgetting.results.result import RunResult
from graceful_forgetting.tasks import export_tasks, load_task, resolve_task

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-evaluation-harness (extra eval)")


def question(i: int) -> dict:
    options = [f"w{40 + (i + 3 * k) % 20}" + f" w{20 + i}" * (k % 2) for k in range(3)]
    return {"question": f"w{i} w{(2 * i) % 40}", "options": options, "right": i % 3}


@pytest.fixture
def quiz(tmp_path: Path) -> Path:
    """A YAML task with three options of one or two words."""
    for split, numbers in (("train", range(12)), ("test", range(12, 19))):
        path = tmp_path / "quiz" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(question(i)) + "\n" for i in numbers), encoding="utf-8")
    content = {
        "data": "quiz",
        "columns": ["question", "options", "right"],
        "prompt": "{{ question }}",
        "choices": "options",
        "correct": "right",
        "completion": " {{ choice }}",
        "parse": "exact",
        "metric": "accuracy",
    }
    path = tmp_path / "quiz.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture
def flags(tmp_path: Path, make_model, tokenizer, quiz: Path, forgetting) -> list[str]:
    """A short run that learns the quiz and forgets rows of the user's own."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = tmp_path / "myths" / "train.jsonl"
    rows.parent.mkdir()
    rows.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in forgetting), encoding="utf-8")
    (tmp_path / "neutral.txt").write_text(" ".join(f"w{i % 60}" for i in range(90)), encoding="utf-8")
    settings = {
        "model_name_or_path": tmp_path / "model",
        "learning_task": quiz,
        "forgetting_tasks": tmp_path / "myths",
        "output_dir": tmp_path / "run",
        "neutral_text": tmp_path / "neutral.txt",
        "max_steps": 3,
        "unlearn_every": 2,
        "per_device_train_batch_size": 4,
        "elicitation_max_new_tokens": 3,
        "eval_max_new_tokens": 3,
        "forget_fraction": 0.5,
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def test_yaml_task_from_recipe_to_result(flags: list[str], tmp_path: Path) -> None:
    assert main(["run", *flags, "--eval_max_new_tokens", "0"]) == 0
    result = RunResult.load(tmp_path / "run" / "result.json")
    assert {run.arm for run in result.runs} == {"base", "plain", "lwf"}
    for run in result.runs:
        metrics = run.metrics["quiz"]
        assert (metrics.total, metrics.accuracy, metrics.correct) == (7, None, None)
        assert metrics.choice.chance == pytest.approx(1 / 3)
        assert metrics.choice.adjusted == pytest.approx((metrics.choice.accuracy - 1 / 3) / (2 / 3))
        assert 1 < run.neutral_bits_per_byte < 3
        folder = tmp_path / "run" / "evaluation" / (run.arm if run.seed is None else f"{run.arm}-seed-{run.seed}")
        items = json.loads((folder / "items.json").read_text())["quiz"]
        assert sum(items["choice_correct"]) / 7 == metrics.choice.accuracy_per_byte
        assert [len(values) for values in items["choice_log_likelihoods"]] == [3] * 7
        assert items["generated"] is None
    assert result.summary.tasks["quiz"].metric == "choice_accuracy"
    assert len({run.neutral_bits_per_byte for run in result.runs}) == 3

    # The task file decides what is right, so a change of it evaluates again; the runs stay.
    before = (tmp_path / "run" / "evaluation" / "base" / "stage.json").read_text()
    quiz = tmp_path / "quiz.yaml"
    quiz.write_text(quiz.read_text().replace("parse: exact", "parse: first_line"), encoding="utf-8")
    assert main(["evaluate", *flags, "--eval_max_new_tokens", "0"]) == 0
    assert (tmp_path / "run" / "evaluation" / "base" / "stage.json").read_text() != before


def test_bad_general_measurements_stop_before_any_stage(flags: list[str], tmp_path: Path, capsys) -> None:
    assert main(["run", *flags, "--neutral_text", str(tmp_path / "nothing.txt")]) == 2
    assert "neutral_text=" in capsys.readouterr().err
    if find_spec("lm_eval") is None:
        assert main(["run", *flags, "--lm_eval_tasks", "arc_easy"]) == 2
        assert "pip install 'graceful-forgetting[eval]'" in capsys.readouterr().err
    else:
        assert main(["run", *flags, "--lm_eval_tasks", str(tmp_path / "none.yaml")]) == 2
        assert "there is no file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_tasks_list_and_export(tmp_path: Path, capsys) -> None:
    assert main(["tasks", "list"]) == 0
    assert "\npsychol " in capsys.readouterr().out
    folder = tmp_path / "exported"
    names = ["qasc", "gsm8k", "xquad:zh"]
    assert main(["tasks", "export", str(folder), "--tasks", *names, "--data_source", "sample", "--limit", "5"]) == 0
    assert sorted(path.name for path in folder.glob("*.yaml")) == [
        "graceful_gsm8k.yaml",
        "graceful_qasc.yaml",
        "graceful_xquad_zh.yaml",
    ]
    rows = [json.loads(line) for line in (folder / "graceful_qasc.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 5
    assert all(row["choices"][row["right"]] == row["completion"] for row in rows)
    (folder / "notes.txt").write_text("mine")
    assert main(["tasks", "export", str(folder), "--tasks", "qasc", "--data_source", "sample"]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert (folder / "notes.txt").exists()


def test_task_whose_answers_the_harness_cannot_read_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": "1", "b": "2"}\n')
    fields = {"columns": ["a", "b"], "prompt": "{{ a }}", "completion": "{{ b }}", "parse": {"regex": "(.*)"}}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"data": ".", **fields}))
    (tmp_path / "test.jsonl").write_text('{"a": "1", "b": "2"}\n')
    with pytest.raises(ValueError, match="task 't' reads answers in a way"):
        export_tasks(tmp_path / "out", [str(tmp_path / "t.yaml")])


def test_what_the_harness_would_print_as_it_is_or_lose_is_not_exported(tmp_path: Path) -> None:
    said = [[{"role": role, "content": "w1"}] for role in ("user", "assistant")]
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "test.jsonl").write_text(json.dumps({"prompt": said[0], "completion": said[1]}) + "\n")
    with pytest.raises(ValueError, match=r"task 'talk' has conversations: .* \(--apply_chat_template\)"):
        export_tasks(tmp_path / "out", [str(tmp_path / "talk")])
    (tmp_path / "test.jsonl").write_text('{"a": "1", "b": "2"}\n')
    fields = {"columns": ["a", "b"], "prompt": "{{ a }}", "completion": "{{ b }}", "system_prompt": "Be brief."}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"data": ".", **fields}))
    with pytest.raises(ValueError, match=r"task 't' has a system_prompt, .* \(--system_instruction\)"):
        export_tasks(tmp_path / "out", [str(tmp_path / "t.yaml")])
    assert not (tmp_path / "out").exists()


@needs_lm_eval
def test_harness_agrees_with_our_own_likelihoods_and_keeps_random_states(
    quiz: Path, tmp_path: Path, make_model, tokenizer
) -> None:
    model = make_model().train()
    export_tasks(tmp_path / "exported", [str(quiz)])
    states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()
    scores = evaluate_with_lm_eval(model, tokenizer, [str(tmp_path / "exported")], limit=None, batch_size=3)
    assert states[0] == random.getstate()
    assert states[1] == numpy.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.get_rng_state())
    assert model.training
    task = resolve_task(quiz)
    ours, _ = evaluate_items(
        model,
        EvaluationRows(load_task(task, "test"), tokenizer),
        "learning",
        task,
        batch_size=4,
        max_new_tokens=2,
        description="",
        generate=False,
    )
    assert scores == {
        "graceful_quiz": {
            "acc": pytest.approx(ours.choice.accuracy),
            "acc_norm": pytest.approx(ours.choice.accuracy_per_byte),
            "acc_bytes": pytest.approx(ours.choice.accuracy_per_byte),
        }
    }


@needs_lm_eval
def test_harness_in_the_result_of_a_run(flags: list[str], quiz: Path, tmp_path: Path) -> None:
    export_tasks(tmp_path / "exported", [str(quiz)])
    harness = ["--lm_eval_tasks", str(tmp_path / "exported" / "graceful_quiz.yaml"), "--eval_limit", "4"]
    assert main(["run", *flags, *harness, "--eval_max_new_tokens", "0"]) == 0
    result = RunResult.load(tmp_path / "run" / "result.json")
    assert all(set(run.lm_eval["graceful_quiz"]) == {"acc", "acc_norm", "acc_bytes"} for run in result.runs)


def test_generated_and_likelihood_metrics_stand_side_by_side(make_model, tokenizer, quiz: Path) -> None:
    rows: Dataset = load_task(quiz, "test")
    metrics, _ = evaluate_items(
        make_model(),
        EvaluationRows(rows, tokenizer),
        "learning",
        resolve_task(quiz),
        batch_size=4,
        max_new_tokens=2,
        description="",
    )
    assert metrics.accuracy is not None
    assert metrics.choice is not None
    assert metrics.bits_per_byte > 0
    assert (metrics.f1, metrics.chrf) == (None, None)
