"""Files that nobody meant; `make reliability` tries many more. What was found is kept as a case of its own."""

import json

import pytest

from evidence.reliability.fuzz import ARCHIVES, fuzz, kinds
from graceful_forgetting.results.result import RunResult
from graceful_forgetting.runs.recipe import parse_recipe
from graceful_forgetting.sweeps.grid_file import load_grid
from graceful_forgetting.tasks.file_task import file_task


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.name)
def test_every_reader_refuses_by_name(kind):
    found = fuzz(kind, 60, number=1)
    assert found.inputs >= 60
    assert not found.failures, found.examples


@pytest.mark.parametrize("read", [lambda file: parse_recipe(file, []), load_grid, file_task])
def test_control_characters_in_yaml(tmp_path, read):
    file = tmp_path / "file.yaml"
    file.write_text("output_dir: a\nname: b\x10c\n")
    with pytest.raises(ValueError, match=r"file\.yaml, line 2, has the control character 0x10: remove it"):
        read(str(file))


@pytest.mark.parametrize(
    ("path", "value"),
    [(["runs"], 5), (["runs", 0], []), (["runs", 0, "metrics"], []), (["runs", 0, "metrics", "x"], 1)],
)
def test_a_result_of_version_1_whose_runs_are_none(path, value):
    content = json.loads((ARCHIVES / "demo.json").read_text())
    content["schema_version"] = 1
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=r"result\.runs"):
        RunResult.from_json(content)


@pytest.mark.parametrize("content", [b"\xff{}", b"[" * 100_000, b"1" + b"0" * 5000], ids=["bytes", "nested", "digits"])
def test_a_result_file_that_python_cannot_read(tmp_path, content):
    file = tmp_path / "result.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"result\.json is not valid JSON"):
        RunResult.load(file)
