"""Finished runs side by side: what is read, what is said to differ, what the page holds."""

import json

import numpy as np
import pytest
from datasets import Dataset

from graceful_forgetting.cli import main
from graceful_forgetting.report import render_comparison
from graceful_forgetting.report.differences import (
    against_first,
    origins_that_differ,
    overlaps,
    percentile,
    settings_that_differ,
    stage_times,
)
from graceful_forgetting.report.samples import read_samples
from graceful_forgetting.runs.finished_runs import FinishedRun, load_runs
from graceful_forgetting.runtime.artifacts import write_json
from html_page import Page
from report_data import HOSTILE, LWF, result_of, samples_of, three_seed_result, training_run, write_run

BETTER = tuple(value + 0.1 for value in LWF)


def two_runs(samples=(None, None)):
    configs = (
        {"unlearn_every": 10, "seed": 1, "output_dir": "a"},
        {"unlearn_every": 5, "seed": 1, "output_dir": "b", "packing": True},
    )
    results = [three_seed_result(config=config, lwf=lwf) for config, lwf in zip(configs, (LWF, BETTER), strict=True)]
    return [
        FinishedRun(f"runs/{name}", result, rows) for name, result, rows in zip("ab", results, samples, strict=True)
    ]


def samples_with(confidence, chosen, prompts=None):
    count = len(confidence)
    return Dataset.from_dict(
        {
            "prompt": prompts or [f"prompt {row}" for row in range(count)],
            "completion": ["answer"] * count,
            "forgetting_task": ["old"] * count,
            "forgetting_confidence": confidence,
            "confidence_linear": confidence,
            "confidence_quadratic": confidence,
            "chosen": [bool(flag) for flag in chosen],
        }
    )


def page_of(runs, tmp_path):
    return Page(render_comparison(runs, tmp_path / "comparison.html").read_text(encoding="utf-8"))


def test_runs_are_read_with_their_samples_and_told_apart(tmp_path):
    folders = [
        write_run(tmp_path / name / "run", three_seed_result(), samples_of(8, seed=seed))
        for seed, name in enumerate(("one", "two"))
    ]
    first, second = load_runs([folders[0], folders[1] / "result.json"])
    assert (first.label, second.label) == ("one/run", "two/run")
    assert first.samples["chosen"] == samples_of(8, seed=0)["chosen"]
    assert second.samples["chosen"] == samples_of(8, seed=1)["chosen"]
    # A selection that was made again since is not that of the result.
    write_json(folders[1] / "selection" / "stage.json", {"key": "another"})
    assert load_runs(folders)[1].samples is None


def test_what_cannot_be_compared_is_refused(tmp_path, capsys):
    folder = write_run(tmp_path / "run", three_seed_result(), samples_of(8))
    with pytest.raises(ValueError, match="1 run to compare: name two or more"):
        load_runs([folder])
    with pytest.raises(ValueError, match=r"result\.json is named twice|run is named twice"):
        load_runs([folder, folder / "result.json"])
    with pytest.raises(FileNotFoundError, match="nowhere: there is no result of a run"):
        load_runs([folder, tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="13 runs: from 2 to 12"):
        render_comparison([*two_runs(), *two_runs()] * 3 + two_runs()[:1], tmp_path / "page.html")
    assert main(["compare", str(folder), str(tmp_path / "nowhere")]) == 2
    assert main(["compare", str(folder), str(folder), "--output", str(tmp_path / "no" / "page.html")]) == 2
    assert "name a file in a folder that exists" in capsys.readouterr().err


def test_command_writes_the_page(tmp_path, capsys):
    folders = [str(write_run(tmp_path / name, three_seed_result(), samples_of(8))) for name in "ab"]
    assert main(["compare", *folders, "--output", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out == f"comparison: {tmp_path / 'page.html'}\n"
    assert "2 runs side by side" in Page((tmp_path / "page.html").read_text()).words


def test_only_settings_with_an_effect_are_said_to_differ():
    assert [(row.name, row.values) for row in settings_that_differ(two_runs())] == [
        ("packing", ["default", "true"]),
        ("unlearn_every", ["10", "5"]),
    ]


def test_only_differing_origins_are_listed():
    runs = two_runs()
    assert origins_that_differ(runs) == []
    runs[1].result.provenance.packages["torch"] = "0.1"
    runs[1].result.provenance.data_fingerprints["old_test"] = "f" * 40
    found = {row.name: row.values for row in origins_that_differ(runs)}
    assert found["data: old_test"] == ["–", "f" * 12]
    assert found["torch"][1] == "0.1"
    assert len(found) == 2


def test_lwf_is_paired_with_that_of_the_first_run():
    runs = two_runs()
    nothing, difference = against_first(runs, "new rule")
    assert nothing is None
    assert (difference.n, difference.difference) == (3, pytest.approx(0.1))
    runs[1] = FinishedRun("c", result_of([training_run("lwf", 7, 0.9)]), None)
    assert against_first(runs, "new rule") == [None, None]


def test_overlap_of_choices_by_hand():
    first = samples_with([5.0, 4.0, 3.0, 2.0], [1, 1, 0, 0])
    # Without prompt 3, with another; the order of the three shared ones is reversed.
    second = samples_with([1.0, 2.0, 3.0, 9.0], [0, 1, 1, 1], ["prompt 0", "prompt 1", "prompt 2", "another"])
    (pair,) = overlaps([read_samples(first), read_samples(second)])
    assert (pair.shared, pair.chosen_first, pair.chosen_second, pair.chosen_both) == (3, 2, 2, 1)
    assert pair.jaccard == pytest.approx(1 / 3)
    assert pair.rank_correlation == pytest.approx(-1)
    assert overlaps([read_samples(first), None]) == []


def test_percentiles_share_ties_and_keep_gaps():
    found = percentile(np.array([1.0, 3.0, 3.0, np.nan, 7.0]))
    np.testing.assert_allclose(found, [0.125, 0.5, 0.5, np.nan, 0.875])


def test_stage_times_are_summed_by_kind():
    runs = two_runs()
    assert [(time.name, time.seconds) for time in stage_times(runs)] == [
        ("elicit", [75.0, 75.0]),
        ("train", [0.5, 0.5]),
    ]
    runs[1].result.stages[1].name = "elicit/again"
    assert [(time.name, time.seconds) for time in stage_times(runs)] == [
        ("elicit", [75.0, 75.5]),
        ("train", [0.5, None]),
    ]


def test_page_holds_every_section(tmp_path):
    first = samples_with([5.0, 4.0, 3.0, 2.0], [1, 1, 0, 0])
    second = samples_with([1.0, 2.0, 3.0, 9.0], [0, 1, 1, 1], ["prompt 0", "prompt 1", "prompt 2", "another"])
    page = page_of(two_runs((first, second)), tmp_path)
    for words in ("2 runs side by side", "unlearn_every", "+0.200", "LWF better", "20 / 60", "33 %", "peak memory"):
        assert words in page.words
    assert len(set(page.ids)) == len(page.ids)
    data = json.loads(page.scripts["sample-data"])
    # The largest difference between the runs first; the samples of one run have none and come last.
    assert data["columns"]["prompt"][0] == "prompt 0"
    assert data["columns"]["spread"] == [75.0, 25.0, 25.0, None, None]
    assert [data["labels"]["chosen"][index] for index in data["columns"]["chosen"]] == ["A", "A, B", "B", "none", "B"]


def test_runs_without_common_tasks_or_samples_are_shown(tmp_path):
    runs = [*two_runs(), FinishedRun("none", result_of([]), None)]
    runs[0].result.provenance.data_fingerprints["learning_test"] = "other rows"
    page = page_of(runs, tmp_path)
    assert "Without their samples" in page.words
    assert "sample-data" not in page.scripts
    assert "not tested on the same rows of new rule" in page.words
    assert "not tested on the same rows of old" not in page.words


def test_hostile_text_stays_text(tmp_path):
    samples = samples_of(6, tasks=(HOSTILE,), prompt=HOSTILE, completion=HOSTILE)
    runs = [
        FinishedRun(f"{HOSTILE}{index}", result_of([], name=HOSTILE, config={HOSTILE: f"{HOSTILE}{index}"}), samples)
        for index in range(2)
    ]
    page = page_of(runs, tmp_path)
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "sample-data"}, {}]
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "img"} == set()
    assert "alert(1)" in page.words
