"""`graceful sweep` as a user types it: cells, shared stages, skipping, crashes, tuning, report."""

import json
import multiprocessing
import os
import re
import runpy
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from trl import SFTTrainer

from formula import FORMULA
from graceful_forgetting.cli import main
from graceful_forgetting.results.result import RunResult
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.sweeps.archive import read_archive
from graceful_forgetting.sweeps.cell import CellResult, load_cells

ROOT = Path(__file__).parents[2]
RECIPE = FORMULA | {
    "max_steps": 4,
    "per_device_train_batch_size": 8,
    "learning_rate": "3e-3",
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "elicitation_max_new_tokens": 4,
    "unlearn_every": 2,
    "per_device_unlearn_batch_size": 4,
    "eval_max_new_tokens": 4,
}
METHODS = {
    "plain": {"arm": "plain"},
    "never_knew": {"arm": "never_knew"},
    "lwf": {"forget_fraction": 0.5},
    "random": {"forget_fraction": 0.5, "forget_strategy": "random"},
}


@pytest.fixture
def grid(tmp_path, make_model, tokenizer, learning, forgetting):
    """Writes a grid over one learning task, one forgetting set and a tiny model, with changes."""
    for name, seed in (("models/base", 0), ("models/never_knew", 1)):
        make_model(seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    for path, rows in {
        "sums/train": learning, "sums/test": learning.select(range(6)),
        "myths/train": forgetting.select_columns(["prompt"]), "myths/test": forgetting.select(range(5)),
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / f"{path}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(**changes) -> str:
        content = {
            "name": "tiny",
            "output_dir": str(tmp_path / "sweep"),
            "learning": {"sums": str(tmp_path / "sums")},
            "forgetting": {"myths": [str(tmp_path / "myths")]},
            "base": {
                "model_name_or_path": str(tmp_path / "models"), **RECIPE,
            },
            "methods": METHODS,
            "seeds": [0, 1],
            "evaluate_every": 2,
        }  # fmt: skip
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
        return str(path)

    return write


def measured(cell: CellResult) -> dict:
    """What a cell says, without when, where and how fast."""
    content = cell.to_json()
    return {name: value for name, value in content.items() if name not in ("created", "provenance", "stages")}


def made(output: str) -> list[str]:
    return re.findall(r"^\[\d+/\d+\] cells/(\S+):", output, flags=re.MULTILINE)


def test_a_sweep_from_its_cells_to_its_report(grid, tmp_path, capsys):
    assert main(["sweep", "--config", grid(), "--dry_run"]) == 0
    assert capsys.readouterr().out.count("to do") == 8
    assert not (tmp_path / "sweep").exists()

    assert main(["sweep", "--config", grid()]) == 0
    output = capsys.readouterr().out
    assert len(made(output)) == 8
    assert "left" in output
    cells = load_cells(tmp_path / "sweep")
    assert [(c.method, c.role, c.seed) for c in cells] == [
        (method, method if method != "lwf" else None, seed) for method in METHODS for seed in (0, 1)
    ]
    # Every stage was made by one cell and reused by the others; no weights are kept of runs that forget.
    runs = Counter((s.name, s.key) for cell in cells for s in cell.stages if s.status == "run")
    used = {(s.name, s.key) for cell in cells for s in cell.stages}
    assert set(runs.values()) == {1}
    assert set(runs) == used
    assert [name for name, _ in used].count("self_knowledge") == 1
    shared = tmp_path / "sweep" / "shared"
    with_weights = {path.parts[len(shared.parts)] for path in shared.rglob("*.safetensors")}
    assert with_weights == {"plain", "never_knew", "posterior"}
    assert not (shared / "work").exists() or not list((shared / "work").rglob("*.json"))

    lwf = next(cell for cell in cells if cell.method == "lwf")
    assert [point.step for point in lwf.curve] == [0, 2, 4]
    assert len(lwf.answers) == 6
    assert lwf.answers.count("1") == lwf.metrics["sums"].correct
    assert lwf.selection.chosen == round(lwf.selection.scored / 2)
    assert lwf.truth_ratios is lwf.scores is None
    assert max(path.stat().st_size for path in (tmp_path / "sweep" / "cells").rglob("*.json")) < 60_000

    # The same cell by `graceful run`.
    recipe = {**RECIPE, "forget_fraction": 0.5, "seed": 1, "output_dir": str(tmp_path / "run")}
    recipe |= {"model_name_or_path": str(tmp_path / "models")}
    recipe |= {"learning_task": str(tmp_path / "sums"), "forgetting_tasks": [str(tmp_path / "myths")]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", "--config", str(tmp_path / "recipe.yaml")]) == 0
    for run in RunResult.load(tmp_path / "run" / "result.json").runs:
        if run.arm != "base":
            cell = next(c for c in cells if c.method == run.arm and c.seed == 1)
            for task, metrics in run.metrics.items():
                assert cell.metrics[task].correct == metrics.correct
                assert cell.metrics[task].bits_per_byte == pytest.approx(metrics.bits_per_byte, rel=1e-5)

    # Nothing is made twice; what changes is made again, and what it shares is not.
    capsys.readouterr()
    assert main(["sweep", "--config", grid()]) == 0
    assert "8 finished before" in capsys.readouterr().out
    methods = {**METHODS, "lwf": {"forget_fraction": 0.25}}
    assert main(["sweep", "--config", grid(methods=methods, seeds=[0])]) == 0
    output = capsys.readouterr().out
    assert made(output) == ["sums/myths/default/lwf/seed-0"]
    assert "2 stages made" in output

    report = tmp_path / "sweep" / "report.html"
    assert "<script>alert" not in report.read_text()
    archive, page = tmp_path / "results" / "tiny.jsonl", tmp_path / "results.md"
    assert main(["report", "--sweep", str(tmp_path / "sweep"), "--archive", str(archive)]) == 0
    assert "Overview" in capsys.readouterr().out
    assert [measured(cell) for cell in read_archive(archive)] == [
        measured(cell) for cell in load_cells(tmp_path / "sweep")
    ]
    results = runpy.run_path(str(ROOT / "evidence" / "make_results.py"))["documents"]
    written = results([archive], page)
    assert written == results([archive], page)
    assert "tiny-1.svg" in " ".join(path.name for path in written)
    assert "what is gained" in written[page]


def test_a_killed_worker_changes_nothing(grid, tmp_path, capsys):
    methods = {"plain": {"arm": "plain"}, "lwf": {"forget_fraction": 0.5}}
    config = grid(methods=methods)
    assert main(["sweep", "--config", config, "--output_dir", str(tmp_path / "whole")]) == 0
    expected = [measured(cell) for cell in load_cells(tmp_path / "whole")]

    # A crashed process left half of a stage behind, and its lock file.
    folder = next((tmp_path / "whole" / "shared" / "scores").glob("*.lock"))
    scores = tmp_path / "killed" / "shared" / "scores"
    (scores / f"{folder.stem}.partial-graceful-1").mkdir(parents=True)
    (tmp_path / "killed" / "shared" / "work" / "scores" / f"{folder.stem}.partial-graceful-1").mkdir(parents=True)
    (scores / folder.name).touch()

    killed = []

    def kill_one():
        end = time.monotonic() + 300
        while not killed and time.monotonic() < end:
            busy = list((tmp_path / "killed" / "shared").glob("*/*/*.partial-*"))
            alive = {child.pid: child for child in multiprocessing.active_children()}
            for path in busy:
                pid = int(path.name.rsplit("-", 1)[1])
                if pid in alive:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.005)

    thread = threading.Thread(target=kill_one)
    thread.start()
    capsys.readouterr()
    assert main(["sweep", "--config", config, "--jobs", "2", "--output_dir", str(tmp_path / "killed")]) == 0
    thread.join()
    assert killed, "no worker was caught at work"
    assert len(made(capsys.readouterr().out)) == 4
    assert [measured(cell) for cell in load_cells(tmp_path / "killed")] == expected
    assert not list((tmp_path / "killed").rglob("*.partial-*"))


def test_mixed_precision_of_training_does_not_reach_the_measurement(grid, tmp_path):
    """What unlearns next to nothing is next to plain fine-tuning, and measured as that is."""
    base = {**RECIPE, "model_name_or_path": str(tmp_path / "models" / "base"), "bf16": True, "use_cpu": True}
    hardly = {"forget_fraction": 0.5, "unlearn_learning_rate": 1e-30, "guard_fallback": False}
    methods = {"plain": {"arm": "plain"}, "lwf": hardly}
    assert main(["sweep", "--config", grid(base=base, methods=methods, seeds=[0])]) == 0
    plain, ours = load_cells(tmp_path / "sweep")
    assert ours.selection.unlearn_updates > 0
    assert ours.metrics == plain.metrics


@pytest.mark.parametrize("keep_models", [False, True])
def test_a_cell_that_unlearns_nothing_is_not_trained_again(grid, tmp_path, keep_models, monkeypatch):
    runs = []
    train = SFTTrainer.train
    monkeypatch.setattr(
        SFTTrainer, "train", lambda self, *args, **keys: runs.append(self) or train(self, *args, **keys)
    )
    nothing = {"confidence_scorer": "interference", "forget_strategy": "threshold", "forget_threshold": 99.0}
    methods = {"plain": {"arm": "plain"}, "lwf": nothing, "half": {**nothing, "reference_fraction": 0.5}}
    config = grid(methods=methods, seeds=[0, 1], keep_models=keep_models)
    assert main(["sweep", "--config", config]) == 0
    # Of each seed the plain run, and of the last method a reference run that is a part of it.
    assert len(runs) == 4
    cells = {(cell.method, cell.seed): cell for cell in load_cells(tmp_path / "sweep")}
    for (method, seed), cell in cells.items():
        plain = cells["plain", seed]
        assert (cell.metrics, cell.answers, cell.curve) == (plain.metrics, plain.answers, plain.curve), method
        assert method == "plain" or (cell.selection.chosen, cell.selection.unlearn_updates) == (0, 0)
    weights = [load_file(file) for file in (tmp_path / "sweep" / "shared" / "lwf").rglob("model.safetensors")]
    originals = [load_file(file) for file in (tmp_path / "sweep" / "shared" / "plain").rglob("model.safetensors")]
    assert len(weights) == (4 if keep_models else 0)
    for own in weights:
        assert any(all(torch.equal(own[name], value) for name, value in plain.items()) for plain in originals)


def test_tuning_chooses_on_its_own_seeds(grid, tmp_path, capsys):
    config = grid(
        methods={"plain": {"arm": "plain"}, "twin": {"arm": "never_knew"}},
        tune={"plain": {"learning_rate": [1e-9, 3e-2]}, "twin": "plain"},
        validation_seeds=[8],
        seeds=[0],
    )
    assert main(["sweep", "--config", config]) == 0
    output = capsys.readouterr().out
    assert "2 trials, 0 finished before" in output
    record = read_json(tmp_path / "sweep" / "tuning.json")
    found = record["choices"]["sums/myths/default"]["plain"]
    scores = {trial["fields"]["learning_rate"]: trial["scores"] for trial in found["trials"]}
    assert scores[found["chosen"]["learning_rate"]] == max(scores.values())
    cells = load_cells(tmp_path / "sweep")
    assert {cell.config["learning_rate"] for cell in cells} == {found["chosen"]["learning_rate"]}
    assert {(cell.seed, cell.split) for cell in cells} == {(0, "final")}
    archive = tmp_path / "tuned.jsonl"
    assert main(["report", "--sweep", str(tmp_path / "sweep"), "--archive", str(archive)]) == 0
    assert read_json(archive.with_name("tuned.tuning.json")) == record
    capsys.readouterr()
    assert main(["sweep", "--config", config]) == 0
    assert "2 trials, 2 finished before" in capsys.readouterr().out


def test_rounds_of_tuning_build_on_each_other(grid, tmp_path, capsys):
    config = grid(
        methods={"plain": {"arm": "plain"}, "other": {"arm": "plain"}},
        tune={
            "plain": [{"learning_rate": [1e-9, 3e-2]}, {"per_device_train_batch_size": [2, 3]}],
            "other": {"learning_rate": [1e-9, 1e-3, 1e-2, 3e-2]},
        },
        validation_seeds=[8],
        seeds=[0],
    )
    assert main(["sweep", "--config", config, "--dry_run"]) == 0
    listed = capsys.readouterr().out
    assert "plain+learning_rate=0.03/seed-8: to do" in listed
    assert "plain+per_device_train_batch_size=3/seed-8: after tuning" in listed
    assert main(["sweep", "--config", config]) == 0
    output = capsys.readouterr().out
    assert "6 trials of round 1, 0 finished before" in output
    assert "2 trials of round 2, 0 finished before" in output
    record = read_json(tmp_path / "sweep" / "tuning.json")["choices"]["sums/myths/default"]
    tried = record["plain"]["trials"]
    best = max(tried[:2], key=lambda trial: trial["scores"][0])["fields"]
    assert [trial["fields"] for trial in tried[2:]] == [{**best, "per_device_train_batch_size": n} for n in (2, 3)]
    chosen = record["plain"]["chosen"]
    assert chosen == max(tried, key=lambda trial: trial["scores"][0])["fields"]
    assert len(record["other"]["trials"]) == 4
    plain = next(cell for cell in load_cells(tmp_path / "sweep") if cell.method == "plain")
    assert {name: plain.config[name] for name in chosen} == chosen


def test_a_sweep_in_parts_is_the_sweep_at_once(grid, tmp_path, capsys):
    learning = {"sums": str(tmp_path / "sums"), "again": str(tmp_path / "sums")}
    tune = {"plain": {"learning_rate": [1e-9, 3e-2]}}
    settings = {"learning": learning, "methods": {"plain": {"arm": "plain"}}, "tune": tune, "validation_seeds": [8]}
    parts = grid(**settings, seeds=[0])
    assert main(["sweep", "--config", parts, "--learning", "sums"]) == 0
    assert {cell.learning for cell in load_cells(tmp_path / "sweep")} == {"sums"}
    assert list(read_json(tmp_path / "sweep" / "tuning.json")["choices"]) == ["sums/myths/default"]
    assert main(["sweep", "--config", parts, "--learning", "again"]) == 0
    capsys.readouterr()
    in_parts = read_json(tmp_path / "sweep" / "tuning.json")
    assert main(["sweep", "--config", parts]) == 0
    assert "2 cells, 2 finished before" in capsys.readouterr().out
    assert read_json(tmp_path / "sweep" / "tuning.json") == in_parts
    assert set(in_parts["choices"]) == {"sums/myths/default", "again/myths/default"}
    assert main(["sweep", "--config", parts, "--learning", "nothing"]) == 2
    assert "unknown name 'nothing' in --learning" in capsys.readouterr().err


def test_a_failing_cell_leaves_the_others(grid, tmp_path, capsys):
    diverging = {"arm": "plain", "learning_rate": 1e30, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    config = grid(methods={"wild": diverging, "plain": {"arm": "plain"}}, seeds=[0])
    assert main(["sweep", "--config", config]) == 1
    captured = capsys.readouterr()
    assert "1 cells failed" in captured.err
    assert "learning update" in captured.err
    assert "Traceback" not in captured.err
    assert [cell.method for cell in load_cells(tmp_path / "sweep")] == ["plain"]
    error = tmp_path / "sweep" / "cells" / "sums" / "myths" / "default" / "wild" / "seed-0" / "error.txt"
    assert "NonFiniteLossError" in error.read_text()
    assert (tmp_path / "sweep" / "report.html").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"plain": {"arm": "plain"}, "x": {"unlearn_evry": 2}}}, "did you mean 'unlearn_every'"),
        ({"methods": {"plain": {"arm": "plain"}, "x": {"forget_fraction": 2.0}}}, "methods.x with.*fraction=2.0"),
        ({"learning": {"sums": "nowhere.jsonl"}}, "nowhere.jsonl"),
        ({"methods": {"x": {"arm": "never_knew"}}, "base": {"model_name_or_path": "models/base"}}, "never_knew needs"),
    ],
    ids=["field", "value", "path", "twin"],
)  # fmt: skip
def test_mistakes_end_a_sweep_before_it_starts(grid, tmp_path, capsys, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--config", grid(**changes)]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err, flags=re.DOTALL), captured.err
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("broken", "method", "message"),
    [
        ("sums/test", {}, r"sums/myths/default, methods\.plain: learning task 'sums'.*test\.jsonl:4: .* never count"),
        ("myths/train", {}, r"elicitation_max_new_tokens=4 does not fit.*myths.*train\.jsonl:4"),
        (None, {"forget_quotas": '{"myths": 999}'}, r"methods\.last: forget_quotas\['myths'\]=999 is more than"),
    ],
    ids=["reference", "prompt", "quota"],
)
def test_the_data_of_the_last_cell_are_checked_before_the_first_starts(grid, tmp_path, capsys, broken, method, message):
    config = grid(methods={"plain": {"arm": "plain"}, "last": method})
    if broken is not None:
        path = tmp_path / f"{broken}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[3] |= {"completion": " unheard"} if broken == "sums/test" else {"prompt": "w1 " * 200}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["sweep", "--config", config]) == 2
    assert re.search(message, capsys.readouterr().err, flags=re.DOTALL)
    assert not (tmp_path / "sweep" / "cells").exists()


def test_there_is_nothing_to_report(tmp_path, capsys):
    assert main(["report", "--sweep", str(tmp_path)]) == 2
    assert "no result of a cell" in capsys.readouterr().err
    assert sys.exc_info() == (None, None, None)


def test_cells_as_jobs_of_a_scheduler_come_to_the_same(grid, tmp_path, capsys):
    config = grid(methods={"plain": METHODS["plain"], "lwf": METHODS["lwf"]}, seeds=[0])
    assert main(["sweep", "--config", config, "--cluster", "local", "--cluster_parameters", "timeout_min=20"]) == 0
    assert len(made(capsys.readouterr().out)) == 2
    assert main(["sweep", "--config", config, "--output_dir", str(tmp_path / "here")]) == 0
    jobs, here = (load_cells(tmp_path / name) for name in ("sweep", "here"))
    assert [measured(cell) for cell in jobs] == [measured(cell) for cell in here]
    # A stage that both need was made once.
    assert Counter(stage.status for cell in jobs for stage in cell.stages if stage.name == "plain/seed-0")["run"] == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--cluster", "cloud"], "--cluster cloud: "),
        (["--cluster", "local", "--cluster_parameters", "colour=red"], "--cluster local: .*colour"),
        (["--cluster", "local", "--cluster_parameters", "gpus"], "'gpus' must be NAME=VALUE"),
        (["--cluster_parameters", "gpus_per_node=1"], "--cluster_parameters needs --cluster"),
    ],
)
def test_a_scheduler_that_cannot_be_used(grid, capsys, flags, expected):
    assert main(["sweep", "--config", grid(), *flags]) == 2
    assert re.search(expected, capsys.readouterr().err)


def test_a_cell_keeps_the_point_that_a_line_search_has_chosen(grid, tmp_path):
    methods = {
        "plain": {"arm": "plain"},
        "search": {"baseline": "weight_line_search", "unlearn_every": 0, "learning_limit": 8, "validation_limit": 4},
    }
    assert main(["sweep", "--config", grid(methods=methods, seeds=[0])]) == 0
    found = {cell.method: cell.line_search for cell in load_cells(tmp_path / "sweep")}
    assert found["plain"] is None
    assert min(found["search"].losses, key=found["search"].losses.__getitem__) == f"{found['search'].chosen:g}"


def test_a_sweep_that_generates_nothing_measures_likelihoods(grid, tmp_path):
    quiz = [{"prompt": f"w{i} w{i + 20}", "options": [" w40", " w41 w42", " w43"], "right": i % 3} for i in range(16)]
    for split, rows in (("train", quiz[:9]), ("test", quiz[9:])):
        path = tmp_path / "quiz" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"data": "quiz", "columns": ["prompt", "options", "right"], "prompt": "{{ prompt }}"}
    task |= {"choices": "options", "correct": "right", "completion": "{{ choice }}", "parse": "exact"}
    task["old_answer"] = "{{ options[(right + 1) % 3] }}"
    (tmp_path / "quiz.yaml").write_text(yaml.safe_dump({**task, "metric": "accuracy"}))
    learning = {"quiz": str(tmp_path / "quiz.yaml"), "sums": str(tmp_path / "sums")}
    methods = {name: METHODS[name] for name in ("plain", "lwf")}
    base = {"model_name_or_path": str(tmp_path / "models"), **RECIPE, "eval_max_new_tokens": 0}
    assert main(["sweep", "--config", grid(base=base, learning=learning, methods=methods, evaluate_every=4)]) == 0
    by_task = {name: [cell for cell in load_cells(tmp_path / "sweep") if cell.learning == name] for name in learning}
    for cell in by_task["quiz"]:
        metrics = cell.metrics["quiz"]
        assert (metrics.accuracy, len(cell.answers)) == (None, 7)
        assert cell.answers.count("1") / 7 == pytest.approx(metrics.choice.accuracy_per_byte, abs=1e-5)
        assert cell.answers.count("0") == metrics.old
        assert (cell.metric, cell.score) == ("choice_accuracy", metrics.choice.adjusted_per_byte)
        assert all(point.accuracy is None and point.bits_per_byte > 0 for point in cell.curve)
    for cell in by_task["sums"]:
        assert (cell.answers, cell.metric) == ("", "bits_per_byte")
        assert cell.score == -cell.metrics["sums"].bits_per_byte < 0
    # The likeliest of three options is right, old or the third, and some model chooses an old one.
    assert any(cell.metrics["quiz"].old for cell in by_task["quiz"])
    tables = (tmp_path / "sweep" / "tables.md").read_text()
    assert "| method | seeds | choice accuracy |" in tables
    assert "| method | seeds | −bits per byte |" in tables
    assert "Losses have a minus sign, so that more is better." in tables
