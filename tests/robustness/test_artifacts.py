"""Nothing is ever half-written: artefacts and stages that are killed, damaged or in the way."""

import json
import os
import shutil

import pytest

from graceful_forgetting.runtime.artifacts import atomic_directory, atomic_file, read_json, remove_partials, write_json
from graceful_forgetting.training.stages import RunDirectory, SharedStages

NOBODY = 2**22 + 1


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
    # Above the largest number that Linux gives to a process.
    (tmp_path / f"stage.partial-graceful-{NOBODY}").mkdir()
    (tmp_path / "stage" / "deep").mkdir(parents=True)
    (tmp_path / "stage" / "deep" / f"a.json.partial-graceful-{NOBODY}").touch()
    # A process that lives, and a user's own.
    kept = ["deep", "mine.partial-draft", "mine.txt", f"other.partial-graceful-{os.getppid()}", "stage"]
    (tmp_path / kept[3]).mkdir()
    (tmp_path / kept[2]).write_text("mine")
    (tmp_path / kept[1]).mkdir()
    removed = [path.name for path in remove_partials(tmp_path)]
    assert sorted(removed) == [f"a.json.partial-graceful-{NOBODY}", f"stage.partial-graceful-{NOBODY}"]
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == kept


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


@pytest.mark.parametrize("directory", [RunDirectory, SharedStages])
def test_a_damaged_stage_is_named_and_made_again_with_all_that_reads_it(directory, tmp_path):
    def run():
        lines = []
        stages = directory(tmp_path, announce=lines.append)

        def build(path, key):
            (stages.work_folder("first", key) / "checkpoint-1").mkdir()
            (path / "value").write_text("1")
            return {}

        first = stages.stage("first", {}, [], build)
        stages.stage("second", {}, [first], lambda path, key: {})
        return first.path, lines

    folder, _ = run()
    assert [line.split(" (")[0] for line in run()[1]] == ["first: reused", "second: reused"]
    (folder / "value").write_text("2")
    lines = run()[1]
    assert lines[0] == "first: running again, since its value is damaged (another content than was written) ..."
    assert lines[2] == "second: running again, since what it reads was made again ..."
    assert (folder / "value").read_text() == "1"
    assert [line.split(" (")[0] for line in run()[1]] == ["first: reused", "second: reused"]
    assert not list((tmp_path / "work").rglob("checkpoint-1"))


def test_a_users_folders_and_files_in_the_run_directory_are_not_touched(tmp_path):
    (tmp_path / "number").mkdir()
    (tmp_path / "number" / "thesis.txt").write_text("mine")
    (tmp_path / "notes.partial-4194305").mkdir()
    with pytest.raises(FileExistsError, match=r"number was not made by this program \(no valid stage\.json in it\)"):
        stage(tmp_path)
    with pytest.raises(FileExistsError, match="number was not made by this program"):
        stage(tmp_path, force=True)
    assert (tmp_path / "number" / "thesis.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / "number")
    stage(tmp_path)
    (tmp_path / "number" / "thesis.txt").write_text("mine")
    assert stage(tmp_path) == ["number: reused (value 1)"]
    with pytest.raises(FileExistsError, match=r"number/thesis\.txt was not made by this program.*move the file away"):
        stage(tmp_path, value=2)
    assert (tmp_path / "number" / "thesis.txt").read_text() == "mine"
    assert (tmp_path / "number" / "value").read_text() == "1"
