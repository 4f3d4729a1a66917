"""The scoring study: its measures, its file, its tables and charts from a few rows, and one tiny run of its script."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from sklearn.metrics import roc_auc_score

from evidence.plots.scoring import step_size_charts
from evidence.scoring_study.measure import Terms
from evidence.scoring_study.rows import (
    MULTIPLES,
    Detection,
    Setting,
    StudyRow,
    append_rows,
    detection,
    read_rows,
)
from evidence.scoring_study.summary import DEFAULT, MEAN, TABLES, Study

ROOT = Path(__file__).parents[2]


def row(seed=0, setting=DEFAULT, auroc=0.75, world="shortcut", build=0, above=0.5):
    return StudyRow(world, build, seed, setting, Detection(auroc, auroc, auroc, above), 1.0)


def test_detection_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    kinds = list(draw.choice(list("chn"), size=50))
    scores = draw.normal(size=50) + np.array([kind == "c" for kind in kinds])
    found = detection(scores.tolist(), kinds)
    conflicting = np.array([kind == "c" for kind in kinds])
    helpful = np.array([kind == "h" for kind in kinds])
    either = conflicting | helpful
    assert found.auroc == pytest.approx(roc_auc_score(conflicting, scores))
    assert found.auroc_helpful == pytest.approx(roc_auc_score(conflicting[either], scores[either]))
    assert found.above_helpful == pytest.approx(roc_auc_score(~helpful, scores))
    first = np.argsort(-scores)[: conflicting.sum()]
    assert found.precision == pytest.approx(conflicting[first].mean())


def test_detection_where_nothing_conflicts():
    found = detection([3.0, 2.0, 1.0], ["n", "h", "n"])
    assert (found.auroc, found.auroc_helpful, found.precision, found.above_helpful) == (None, None, None, 0.5)


def test_terms_are_those_at_step_one():
    """Two rows with ⟨V, g⟩ = 2, Σ F g² = 4 (so α× = 1), scored at steps of ½ and 2, and one without a gradient."""
    steps = [0.5, 2.0, None]
    scored = Dataset.from_dict(
        {
            "step_size": steps,
            "confidence_linear": [-1.0, -4.0, 0.0],
            "confidence_quadratic": [0.5, 8.0, 0.0],
        }
    )
    terms = Terms.of(scored)
    assert terms.crossover() == 1.0
    assert terms.confidence(1.0).tolist() == [0.0, 0.0, 0.0]
    assert terms.confidence(terms.polyak).tolist() == [-0.5, 4.0, 0.0]


def test_rows_survive_their_file(tmp_path):
    rows = [row(), row(1, Setting("interference"), 0.125, "harmless"), row(2, auroc=None)]
    append_rows(tmp_path / "study.jsonl", rows[:1])
    append_rows(tmp_path / "study.jsonl", rows[1:])
    assert read_rows(tmp_path / "study.jsonl") == rows
    with (tmp_path / "study.jsonl").open("a") as file:
        file.write('{"world": "x"}\n')
    with pytest.raises(ValueError, match=r"study.jsonl:4 .*remove it"):
        read_rows(tmp_path / "study.jsonl")


def test_differences_are_paired_by_seed():
    other = Setting("interference")
    rows = [row(seed, auroc=value) for seed, value in enumerate((0.5, 0.75, 0.25))]
    rows += [row(seed, other, auroc=value) for seed, value in ((1, 1.0), (2, 0.5), (7, 0.0))]
    found = Study(rows).difference("shortcut", 0, other, DEFAULT)
    assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)
    assert Study(rows).difference("shortcut", 0, Setting("loss"), DEFAULT) is None


def test_a_world_without_conflict_is_judged_by_what_is_spared():
    rows = [row(seed, auroc=None, above=0.875, world="harmless") for seed in range(3)]
    assert Study(rows).interval("harmless", 0, DEFAULT).value == 0.875


def test_the_mean_over_worlds_is_taken_seed_by_seed():
    rows = [row(0, auroc=0.5), row(1, auroc=0.75), row(0, auroc=1.0, world="override")]
    assert Study(rows).values(MEAN, 0, DEFAULT) == {0: 0.75}


def test_tables_and_charts_show_what_was_measured():
    rows = [
        row(seed, Setting("lwf", "sampled", "reference", f"{multiple:g}x"), 0.5 + 0.01 * seed)
        for seed in range(3)
        for multiple in MULTIPLES
    ]
    rows += [row(seed, auroc=0.9) for seed in range(3)] + [row(build=1, auroc=0.7)]
    study = Study(rows)
    tables = {name: table(study) for name, table in TABLES.items()}
    assert "| forgetting confidence, α = 1 | .900 | .900 |" in tables["scoring_scorers"]
    assert "| α = 10 α× | .510 [.500, .520] | .510 [.500, .520] |" in tables["scoring_scorers"]
    assert "−.390 [−.400, −.380]" in tables["scoring_differences"]
    assert "| forgetting confidence, α = 1 | .900 / .700 |" in tables["scoring_builds"]
    assert all("interference" not in table for table in tables.values())
    (chart,) = step_size_charts(study)
    assert str(chart.drawing).count("<polyline") == 1
    assert chart.legend == [("line task-0", "sampled at θ*_L")]


def test_a_tiny_run_is_resumed_and_complete(tmp_path):
    script = runpy.run_path(str(ROOT / "evidence" / "scoring_study" / "run.py"))
    recipe = script["RECIPE"] | {"max_steps": 2, "learning_rate": 1e-3, "forgetting_limit": 8}
    output = tmp_path / "study.jsonl"
    script["measure"]("shortcut", 0, {0: ["sampled"]}, output, recipe)
    several = {0: ["sampled", "empirical"], 1: ["sampled"]}
    script["measure"]("shortcut", 0, several, output, recipe, line_search=False)
    rows = read_rows(output)
    assert {r.seed for r in rows} == {0, 1}
    first = [r.setting for r in rows if r.seed == 0]
    # Two places of each Fisher information, the second without the line search, and the scorers that read none.
    assert len(first) == len(set(first)) == 2 * 12 + 2 * 11 + 6
    assert {r.setting.step for r in rows if r.seed == 1} == {*(f"{m:g}x" for m in MULTIPLES), "1", "polyak", None}
    by_setting = {(r.seed, r.setting): r.detection for r in rows}
    # What reads the base model alone is the same with every reference run.
    for scorer in ("gradient_conflict", "pairwise_conflict"):
        assert by_setting[(0, Setting(scorer))] == by_setting[(1, Setting(scorer))]
    # Far beyond the crossover, and far below it, one of the terms ranks alone.
    small, large = (Setting("lwf", "sampled", "reference", step) for step in ("0.01x", "30x"))
    assert by_setting[(0, small)].auroc == pytest.approx(
        by_setting[(0, Setting("linear", "sampled", "reference"))].auroc, abs=0.05
    )
    assert by_setting[(0, large)].auroc == pytest.approx(
        by_setting[(0, Setting("overlap", "sampled", "reference"))].auroc, abs=0.05
    )
