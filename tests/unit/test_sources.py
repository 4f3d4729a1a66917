"""What a run reads beside the learning task and the forgetting tasks."""

import json
from pathlib import Path

import pytest

from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.sources import Sources, load_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folders `learn` (train, validation, test), `forget` (prompts with kinds), `keep` (test) and a model's."""
    rows = {
        "learn/train": [{"prompt": f"{i} is", "completion": f" {i}"} for i in range(6)],
        "learn/validation": [{"prompt": f"{i} is", "completion": f" {i}"} for i in range(6, 9)],
        "learn/test": [{"prompt": "9 is", "completion": " 9", "old_answer": " 10"}],
        "forget/train": [{"prompt": "a", "kind": "conflicting"}, {"prompt": "b", "kind": "neutral"}],
        "keep/test": [{"prompt": "c is", "completion": " c"}],
        "plain/train": [{"prompt": "c is", "completion": " c"}],
    }
    for name, lines in rows.items():
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    return tmp_path


def _sources(folder: Path, **fields: object) -> Sources:
    run = RunArguments(learning_task=str(folder / "learn"), forgetting_tasks=[str(folder / "forget")], **fields)  # type: ignore[arg-type]
    return load_sources(run, str(folder / "model"), seed=0)


def test_validation_rows_of_the_users_folder_are_held_out(folder: Path) -> None:
    found = _sources(folder)
    assert (len(found.learning_train), len(found.learning_validation or [])) == (6, 3)
    assert set(found.learning_validation["prompt"]).isdisjoint(found.learning_train["prompt"])  # type: ignore[index]
    assert len(_sources(folder, validation_limit=2).learning_validation or []) == 2
    assert _sources(folder, validation_limit=0).learning_validation is None


def test_a_quarter_of_the_learning_rows_is_held_out_of_what_is_left_over(folder: Path) -> None:
    (folder / "learn" / "validation.jsonl").unlink()
    assert _sources(folder).learning_validation is None
    for limit, held_out in ((4, 1), (2, 1), (6, 0)):
        assert len(_sources(folder, learning_limit=limit).learning_validation or []) == held_out
    assert len(_sources(folder, learning_limit=2, validation_limit=3).learning_validation or []) == 3


def test_known_truth_reaches_the_run(folder: Path) -> None:
    found = _sources(folder)
    assert found.forgetting["forget"].row_kinds == {"a": "conflicting", "b": "neutral"}
    assert found.learning_test is not None
    assert found.learning_test["old_answer"] == [" 10"]


def test_further_tasks_are_evaluated(folder: Path) -> None:
    found = _sources(folder, evaluation_tasks=[str(folder / "keep")])
    assert {name: rows["completion"] for name, (rows, _) in found.evaluation.items()} == {"keep": [" c"]}


def test_a_further_task_that_cannot_be_evaluated_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"evaluation_tasks names '.*plain', which has no test rows with answers"):
        _sources(folder, evaluation_tasks=[str(folder / "plain")])
    with pytest.raises(ValueError, match="evaluation_tasks names 'learn', which this run evaluates already"):
        _sources(folder, evaluation_tasks=[str(folder / "learn")])
    with pytest.raises(ValueError, match="has tasks of its own: remove evaluation_tasks"):
        RunArguments(world="shortcut", evaluation_tasks=["keep"])
