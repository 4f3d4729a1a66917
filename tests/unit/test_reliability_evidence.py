"""The harnesses of evidence/reliability: what they compare, draw and report."""

import json
import re
from dataclasses import asdict

import pytest

from evidence.reliability import draws, fuzz, kill, page
from evidence.reliability.fuzz import Found, Kind, attempt
from evidence.reliability.kill import SIGNALS, Command, points
from evidence.reliability.leftovers import differences, snapshot
from graceful_forgetting.worlds import Difficulty


def test_the_page_is_that_of_the_figures():
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), "python -m evidence.reliability.page"


def test_archived_draws_are_those_of_their_numbers():
    rows = draws.archived()
    assert [row["number"] for row in rows] == list(range(30))
    for row in rows:
        drawn = draws.draw(row["number"])
        assert {name: row[name] for name in drawn} == drawn
        Difficulty(**drawn["difficulty"])
    assert draws.figures()["below"] == []


def test_points_are_the_same_at_every_call_and_take_turns():
    command = Command("run", [], ())
    drawn = points(command, "main", "self", 30, 300)
    assert drawn == points(command, "main", "self", 30, 300)
    assert len({point.at for point in drawn}) == 30
    assert {point.signal for point in drawn} == set(SIGNALS)
    assert all(1 <= point.at <= 300 for point in drawn)
    assert len(points(command, "main", "self", 30, 5)) == 5


def test_a_point_that_a_worker_does_not_reach_is_tried_earlier(tmp_path, monkeypatch):
    tried = []

    def strike(command, point, folder, expected):
        tried.append(point.at)
        return {**asdict(point), "wrong": []} if point.at <= 5 else None

    monkeypatch.setattr(kill, "strike", strike)
    point = kill.Point("sweep", "worker-1", 23, "SIGTERM", "all")
    row = kill.reached(Command("sweep", [], ()), point, tmp_path, {})
    assert tried == [23, 11, 5]
    assert row == {**asdict(point), "at": 5, "wrong": []}


def test_only_the_points_that_the_archive_lacks_are_tried(monkeypatch):
    roles = (("worker-1", "self", 3), ("worker-1", "all", 3))
    monkeypatch.setattr(kill, "commands", lambda folder: [Command("sweep", [], roles)])
    known = [{"command": "sweep", "role": "worker-1", "target": target} for target in ("self", "self", "self", "all")]
    monkeypatch.setattr(kill, "archived", lambda: known)
    monkeypatch.setattr(kill, "measured", lambda command, role, folder: (50, {}))
    monkeypatch.setattr(kill, "strike", lambda command, point, folder, expected: asdict(point))
    assert [row["target"] for row in kill.run_kill(["sweep"])] == ["all", "all"]
    assert [row["target"] for row in kill.run_kill(["sweep"], sample=1)] == ["self", "all"]


def test_what_a_kill_may_not_change(tmp_path):
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "model.safetensors").write_bytes(b"a")
    record = {"seconds": 1.0, "key": "k", "detail": {"updates": 6, "resumed_from": None}}
    (tmp_path / "stage" / "stage.json").write_text(json.dumps(record))
    (tmp_path / "gone.txt").touch()
    before = snapshot(tmp_path)
    assert differences(before, snapshot(tmp_path)) == []
    (tmp_path / "stage" / "stage.json").write_text(json.dumps({**record, "seconds": 2.0}))
    assert differences(before, snapshot(tmp_path)) == []
    (tmp_path / "stage" / "stage.json").write_text(json.dumps({**record, "detail": {"updates": 7}}))
    (tmp_path / "stage" / "model.safetensors").write_bytes(b"b")
    (tmp_path / "gone.txt").unlink()
    (tmp_path / "stage" / "x.partial-1").touch()
    assert differences(before, snapshot(tmp_path)) == [
        "gone.txt is missing",
        "stage/x.partial-1 is left over",
        "stage/model.safetensors differs",
        "stage/stage.json differs",
    ]


def refuse(path):
    raise ValueError("of a library, without a word on the file")


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (refuse, r"ValueError \(test_reliability_evidence\.py:\d+\)"),
        (lambda path: bytearray(300 * 2**20), "took 3.. MB"),
        (lambda path: [0 for _ in iter(int, 1)], r"SlowError .*"),
    ],
)
def test_what_a_reader_may_not_do(tmp_path, read, problem, monkeypatch):
    if problem.endswith("MB"):
        # On a busy machine new pages alone can take as long as a reader may.
        monkeypatch.setattr(fuzz, "SECONDS", 60.0)
    found = Found()
    attempt(Kind("rows", None, read, "rows.jsonl"), b"{}", tmp_path, found)
    ((name, count),) = found.failures.items()
    assert re.fullmatch(problem, name)
    assert count == found.inputs == 1
