"""Nothing is ever half-written: artefacts and stages that are killed, damaged or in the way."""

import json

import pytest

from graceful_forgetting.runtime.artifacts import atomic_directory, atomic_file, read_json, remove_partials, write_json
from graceful_forgetting.training.stages import RunDirectory


def test_a_failed_directory_leaves_the_old_one(tmp_path):
    target = tmp_path / "stage"
    with atomic_directory(target) as partial:
        (partial / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_directory(target) as partial:
        (partial / "a").write_text("half")
        raise KeyboardInterrupt
    assert (target / "a").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["stage"]


def test_a_finished_directory_replaces_the_old_one(tmp_path):
    target = tmp_path / "stage"
    for content in ("old", "new"):
        with atomic_directory(target) as partial:
            (partial / content).write_text(content)
    assert [entry.name for entry in target.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["stage"]


def test_a_failed_file_leaves_the_old_one(tmp_path):
    write_json(tmp_path / "a.json", {"value": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"value": float("nan")})
    with pytest.raises(RuntimeError, match="killed"), atomic_file(tmp_path / "a.json") as partial:
        partial.write_text("{")
        raise RuntimeError("killed")
    assert read_json(tmp_path / "a.json") == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "stage.partial-123").mkdir()
    (tmp_path / "stage").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    assert [path.name for path in remove_partials(tmp_path)] == ["stage.partial-123"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine.txt", "stage"]


def stage(folder, value=1, force=False):
    """Runs one stage; returns what was announced."""
    lines = []

    def build(path, _):
        (path / "value").write_text(str(value))
        return {"value": value}

    RunDirectory(folder, force=force, announce=lines.append).stage("number", {"value": value}, [], build)
    return lines


def test_a_stage_is_reused_redone_when_changed_and_redone_by_force(tmp_path):
    assert [line.split(" in ")[0] for line in stage(tmp_path)] == ["number: running ...", "number: done"]
    assert stage(tmp_path) == ["number: reused (value 1)"]
    assert "settings or inputs changed" in stage(tmp_path, value=2)[0]
    assert (tmp_path / "number" / "value").read_text() == "2"
    assert stage(tmp_path, value=2, force=True)[0] == "number: running ..."


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "x"}'])
def test_a_damaged_stage_is_made_again(tmp_path, content):
    stage(tmp_path)
    (tmp_path / "number" / "stage.json").write_text(content)
    assert any(line.startswith("number: done") for line in stage(tmp_path))
    assert json.loads((tmp_path / "number" / "stage.json").read_text())["detail"] == {"value": 1}


def test_a_stage_depends_on_the_stages_that_it_reads(tmp_path):
    def run(value):
        directory = RunDirectory(tmp_path)
        first = directory.stage("first", {"value": value}, [], lambda path, key: {})
        directory.stage("second", {}, [first], lambda path, key: {})
        return [result.status for result in directory.results]

    assert run(1) == ["run", "run"]
    assert run(1) == ["reused", "reused"]
    assert run(2) == ["run", "run"]
