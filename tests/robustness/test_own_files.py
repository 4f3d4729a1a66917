"""What this program did not make it neither replaces nor removes, and no name leads out of its folder."""

import json
import os
from pathlib import Path

import pytest
import yaml

from graceful_forgetting import LWFConfig
from graceful_forgetting.cli import main
from graceful_forgetting.runtime.own_files import CELL, RESULT, check_file, claim_file, list_files, page_sign
from graceful_forgetting.sweeps.grid_file import load_grid
from graceful_forgetting.training.stages import RunDirectory


@pytest.mark.parametrize("content", ["mine", '{"cell_schema_version": 1}', '<meta name="generator" content="other">'])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(FileExistsError, match=r"result\.json is not a file of this kind .* move it away"):
        claim_file(tmp_path / "result.json", RESULT)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "link"):
        with pytest.raises(FileExistsError, match=name):
            claim_file(tmp_path / name, RESULT)


def test_own_files_are_replaced_even_where_they_are_damaged(tmp_path):
    file = tmp_path / "result.json"
    claim_file(file, RESULT)
    file.write_text('{\n  "schema_version": 2}')
    claim_file(file, RESULT)
    list_files(tmp_path, {"result.json": RESULT})
    check_file(file)
    file.write_text("")
    claim_file(file, RESULT)
    with pytest.raises(FileExistsError, match=r"result\.json"):
        claim_file(file, page_sign("report.html"))
    with pytest.raises(ValueError, match=r"result\.json is not as it was written: make it again"):
        check_file(file)


def test_a_list_that_has_changed_places_with_what_it_lists_is_replaced(tmp_path):
    file, listed = tmp_path / "result.json", tmp_path / ".graceful-forgetting.json"
    file.write_text('{"cell_schema_version": 1}')
    list_files(tmp_path, {"result.json": CELL})
    content = file.read_bytes()
    file.write_bytes(listed.read_bytes())
    listed.write_bytes(content)
    with pytest.raises(ValueError, match="is not as it was written"):
        check_file(file, must_be_listed=True)
    claim_file(file, CELL)
    file.write_bytes(content)
    list_files(tmp_path, {"result.json": CELL})
    check_file(file, must_be_listed=True)


@pytest.mark.parametrize("listed", ["", "[]", '{"result.json": 3}', "{"])
def test_a_damaged_list_lists_nothing(tmp_path, listed):
    file = tmp_path / "result.json"
    file.write_text('{"cell_schema_version": 1}')
    (tmp_path / ".graceful-forgetting.json").write_text(listed)
    check_file(file)
    claim_file(file, CELL)
    with pytest.raises(ValueError, match="is not as it was written"):
        check_file(file, must_be_listed=True)


def test_a_run_refuses_a_users_result_before_it_begins(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("mine")
    arguments = ["run", "--world", "shortcut", "--output_dir", str(tmp_path / "run"), "--eval_max_new_tokens", "4"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "run/result.json is not a file of this kind" in captured.err
    assert "running" not in captured.out
    assert (tmp_path / "run" / "result.json").read_text() == "mine"


@pytest.mark.parametrize("name", ["result.json", "report.html", "notes.html"])
def test_a_comparison_replaces_nothing_but_a_comparison(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine" if name == "notes.html" else page_sign("report.html").decode())
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / name)]) == 2
    assert f"{name} is not a file of this kind" in capsys.readouterr().err


def test_a_folder_without_a_name_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="output_dir='' names no folder"):
        LWFConfig(output_dir="", bf16=False)
    assert main(["run", "--world", "shortcut", "--output_dir", ""]) == 2
    assert "output_dir='' names no folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_looks_unfinished_but_is_a_users_stays(tmp_path):
    mine = [tmp_path / f"data.partial-{2**22 + 1}", tmp_path / "plain" / "notes.partial-1"]
    for path in mine:
        path.mkdir(parents=True)
        (path / "keep.txt").write_text("mine")
    RunDirectory(tmp_path)
    assert all((path / "keep.txt").read_text() == "mine" for path in mine)


def grid_file(folder: Path, **changes: object) -> str:
    content = {"worlds": ["shortcut"], "methods": {"plain": {"arm": "plain"}}, **changes}
    (folder / "grid.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "grid.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ".."},
        {"name": "../x"},
        {"methods": {"..": {"arm": "plain"}}},
        {"methods": {"a/b": {"arm": "plain"}}},
        {"settings": {".": {}}},
        {"forgetting": {"..": "mixed"}},
        {"worlds": {"..": "shortcut"}},
        {"name": "x" * 300},
    ],
    ids=str,
)
def test_names_of_a_grid_cannot_leave_its_folder(tmp_path, changes):
    with pytest.raises(ValueError, match=r"the name .* is not valid: use up to 100 letters"):
        load_grid(grid_file(tmp_path, **changes))


@pytest.mark.parametrize("value", ["../../../x", "a/b", "..", "x" * 400, ["q_proj", "../k"]], ids=str)
def test_values_of_a_trial_cannot_leave_its_folder(tmp_path, value):
    tried = {"report_to": [value, "none"]}  # text, or a list of it
    grid = load_grid(grid_file(tmp_path, tune={"plain": tried}, validation_seeds=[7]))
    folders = [cell.folder for cell in grid.trials(0, {})]
    assert len(set(folders)) == 2
    for folder in folders:
        assert len(folder.parts) == 6
        assert folder.parts[0] == "validation"
        assert ".." not in folder.parts
        assert max(len(os.fsencode(part)) for part in folder.parts) < 200


def test_a_changed_result_of_a_run_is_not_compared(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "result.json"
        file.write_text(json.dumps({"schema_version": 2}))
        list_files(file.parent, {"result.json": RESULT})
    (tmp_path / "b" / "result.json").write_text(json.dumps({"schema_version": 1}))
    output = tmp_path / "page.html"
    assert main(["compare", str(tmp_path / "b"), str(tmp_path / "a"), "--output", str(output)]) == 2
    assert "b/result.json is not as it was written" in capsys.readouterr().err
