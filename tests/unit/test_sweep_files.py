"""Cells on disk, their archive, and what tables and plots make of them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from datasets import Dataset

from graceful_forgetting.report import render_sweep
from graceful_forgetting.report.sweep_plots import heat_maps, learning_curves
from graceful_forgetting.results.measures import auroc, expanded, precision_at
from graceful_forgetting.runs.sources import ForgettingSource
from graceful_forgetting.sweeps.archive import read_archive, write_archive
from graceful_forgetting.sweeps.cell import CellResult, load_cells
from graceful_forgetting.sweeps.comparison import evidence_rows, groups_of, ranks_over_groups
from graceful_forgetting.sweeps.measurement import old_completion
from graceful_forgetting.sweeps.scores import kinds_of, score_summary
from graceful_forgetting.sweeps.tables import markdown_document, sweep_tables
from sweep_data import METHODS, cell, some_cells


@pytest.fixture(scope="module")
def cells() -> list[CellResult]:
    return some_cells()


def test_a_cell_survives_its_file(tmp_path):
    one = cell("lwf", 1)
    one.save(tmp_path / "result.json")
    assert CellResult.load(tmp_path / "result.json") == one
    assert len((tmp_path / "result.json").read_text().splitlines()) == len(one.to_json()) + 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell_schema_version": 99}, "cell_schema_version=99"),
        ({"arm": "other"}, "arm='other'"),
        ({"seed": "1"}, "seed='1'"),
        ({"surprise": 1}, "surprise is unknown"),
        ({"answers": None}, "answers=None"),
    ],
)
def test_cells_are_read_strictly(change, message):
    with pytest.raises(ValueError, match=message):
        CellResult.from_json({**cell("lwf", 1).to_json(), **change})
    with pytest.raises(ValueError, match="not the result file of a cell"):
        CellResult.from_json({"schema_version": 1})


def test_an_archive_is_the_cells_and_smaller(cells, tmp_path):
    write_archive(cells, tmp_path / "a.jsonl")
    assert read_archive(tmp_path / "a.jsonl") == cells
    first = (tmp_path / "a.jsonl").read_bytes()
    write_archive(read_archive(tmp_path / "a.jsonl"), tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == first
    assert len(first) < sum(len(json.dumps(one.to_json())) for one in cells)
    with pytest.raises(ValueError, match="nothing to archive"):
        write_archive([], tmp_path / "a.jsonl")


def test_an_archive_says_nothing_of_folders(cells, tmp_path):
    line = ["graceful", "sweep", "--config", "grids/a.yaml", "--jobs", "2", "--output_dir", str(tmp_path / "out")]
    made = replace(cells[0], provenance=replace(cells[0].provenance, command_line=[*line, f"--x={tmp_path}/a=b"]))
    write_archive([made], tmp_path / "a.jsonl")
    assert str(tmp_path) not in (tmp_path / "a.jsonl").read_text()
    (read,) = read_archive(tmp_path / "a.jsonl")
    assert read.provenance.command_line == [*line[:-1], "out", "--x=a=b"]
    assert made.provenance.command_line[-2] == str(tmp_path / "out")


def test_a_damaged_line_is_named(cells, tmp_path):
    write_archive(cells[:2], tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text[:-20])
    with pytest.raises(ValueError, match=r"a.jsonl:\d+ is not a line"):
        read_archive(tmp_path / "a.jsonl")


def test_method_results_are_what_anyone_would_compute(cells):
    group = groups_of(cells)[0]
    results = {result.method: result for result in group.results}
    own = [c for c in cells if c.learning == "sums" and c.learning_rows == 100]
    by_seed = {m: {c.seed: c for c in own if c.method == m} for m in METHODS}
    mean = {m: sum(c.metrics["sums"].accuracy for c in found.values()) / 5 for m, found in by_seed.items()}
    lwf = results["lwf"]
    assert lwf.mean == pytest.approx(mean["lwf"])
    assert lwf.gain.difference == pytest.approx(mean["lwf"] - mean["plain"])
    gap = mean["never_knew"] - mean["plain"]
    assert lwf.gap.fraction == pytest.approx((mean["lwf"] - mean["plain"]) / gap)
    assert lwf.beyond_random.value == pytest.approx((mean["lwf"] - mean["random"]) / gap)
    assert lwf.newly_right - lwf.newly_broken == pytest.approx(lwf.gain.difference)
    assert lwf.split["right"] == pytest.approx(mean["lwf"])
    assert lwf.area == pytest.approx(0.35)
    assert lwf.over_items.low < lwf.over_items.value < lwf.over_items.high
    assert 0 < lwf.distance < 1
    for method in ("plain", "never_knew"):
        assert results[method].gap is results[method].beyond_random is None
    assert results["plain"].gain is results["never_knew"].distance is None


def test_without_controls_nothing_is_compared(cells):
    group = groups_of([one for one in cells if one.method == "lwf"])[0]
    (result,) = group.results
    assert result.gain is result.gap is result.beyond_random is result.newly_right is result.distance is None
    assert result.mean > 0


def test_only_shared_seeds_are_paired(cells):
    fewer = [one for one in cells if not (one.method == "plain" and one.seed > 1)]
    result = {r.method: r for r in groups_of(fewer)[0].results}["lwf"]
    assert (result.seeds, result.gain.n, result.gap.n) == (5, 2, 2)


def test_ranks_and_evidence(cells):
    groups = groups_of(cells)
    assert set(ranks_over_groups(groups)) == {"plain", "random", "lwf"}
    rows = {row.method: row for row in evidence_rows(groups)}
    assert set(rows["lwf"].by_size) == {25, 100}
    assert rows["never_knew"].required == 100
    assert rows["lwf"].target == pytest.approx(0.9 * rows["never_knew"].by_size[100])


def test_unknown_old_answers_are_not_zero(cells):
    blind = [replace(one, truth_ratios=None) for one in cells]
    result = {r.method: r for r in groups_of(blind)[0].results}["lwf"]
    assert set(result.split) == {"right"}
    assert result.memorisation is result.distance is None


def test_tables_have_a_cell_for_every_column(cells):
    tables = sweep_tables(cells, groups_of(cells))
    assert {"Overview", "Mean rank", "Evidence required", "Cost"} <= {table.title for table in tables}
    for table in tables:
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
    text = markdown_document("tiny", tables)
    assert text == markdown_document("tiny", sweep_tables(cells, groups_of(cells)))
    assert re.search(r"\| lwf \| \d+\.\d ± |\| lwf \| 5 \| \d+\.\d ± ", text)


def test_the_report_is_escaped_and_whole(cells, tmp_path):
    groups = groups_of(cells)
    text = render_sweep(cells, groups, sweep_tables(cells, groups), tmp_path / "report.html").read_text()
    assert "<b>tiny" not in text
    assert "&lt;b&gt;tiny" in text
    assert text.count("<figure>") == len([f for g in groups_of(cells) for f in learning_curves(g)]) + 2
    assert "http://" not in re.sub(r'"http://www.w3.org/[^"]*"', "", text)
    assert "None" not in re.sub(r"<script.*", "", text, flags=re.DOTALL)
    with pytest.raises(ValueError, match="nothing to report"):
        render_sweep([], [], [], tmp_path / "report.html")


def test_heat_maps_need_two_fields_and_mark_what_is_sure(cells):
    assert heat_maps(groups_of([one for one in cells if one.learning == "sums"])) == []
    titles = [figure.title for figure in heat_maps(groups_of(cells))]
    assert len(titles) == 2
    assert any(title.startswith("lwf") for title in titles)


def test_curves_of_one_seed_have_no_band_and_many_methods_several_charts(cells):
    assert learning_curves(groups_of([one for one in cells if one.seed == 0])[0])
    many = [cell(f"m{i}", seed) for i in range(9) for seed in (0, 1)] + [one for one in cells if one.learning == "sums"]
    charts = learning_curves(groups_of(many)[0])
    assert len(charts) == 3
    assert all(len(chart.legend) <= 6 for chart in charts)


def test_old_answers_to_other_tasks_have_a_column_where_they_are_known():
    cells = some_cells()
    of_others = [table for table in sweep_tables(cells, groups_of(cells)) if table.title.endswith("other tasks")]
    assert "color, old answers" not in of_others[0].columns
    for one in cells:
        one.metrics["color"].old = {"plain": 6, "lwf": 1}.get(one.method)
    of_others = [table for table in sweep_tables(cells, groups_of(cells)) if table.title.endswith("other tasks")]
    place = of_others[0].columns.index("color, old answers")
    shares = {row[0]: row[place] for row in of_others[0].rows}
    assert (shares["plain"], shares["lwf"], shares["random"]) == ("60.0 %", "10.0 %", "–")


def test_damaged_or_missing_cells(cells, tmp_path):
    with pytest.raises(FileNotFoundError, match="no result of a cell"):
        load_cells(tmp_path)
    folder = Path(tmp_path, "cells", "a", "b", "c", "d", "seed-0")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is not valid JSON"):
        load_cells(tmp_path)


# Measuring -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("completion", "old", "expected"), [(" red", "blue", " blue"), ("red", " blue", "blue")])
def test_old_answers_take_the_form_of_the_completion(completion, old, expected):
    assert old_completion({"completion": completion, "old_answer": old}) == expected


def scored(**columns) -> Dataset:
    rows = 4
    base = {
        "prompt": [f"p{i}" for i in range(rows)],
        "forgetting_task": ["t", "t", "u", "u"],
        "forgetting_confidence": [4.0, 1.0, 3.0, 2.0],
        "confidence_linear": [-1.0, 2.0, 0.5, -3.0],
        "confidence_quadratic": [5.0, 0.1, 1.0, 4.0],
        "loss": [0.1, 0.2, 0.3, 0.4],
        "reference_loss": [None] * rows,
        "step_size": [1.0] * rows,
        "step_size_crossover": [0.4, 40.0, 1.0, 1.5],
    }
    return Dataset.from_dict({**base, **columns})


def test_scores_rank_the_kinds():
    forgetting = {
        "t": ForgettingSource(Dataset.from_dict({}), None, None, None, {"p0": "conflicting", "p1": "neutral"}),
        "u": ForgettingSource(Dataset.from_dict({}), None, "helpful", None),
    }
    kinds = kinds_of(scored(), forgetting)
    assert kinds == ["conflicting", "neutral", "helpful", "helpful"]
    summary = score_summary(scored(), kinds, "lwf")
    found = {name: expanded(ranking) for name, ranking in summary.rankings.items()}
    assert found == {"lwf": "chhn", "linear": "nhch", "overlap": "chhn", "loss": "hhnc"}
    assert summary.crossover == pytest.approx(1.25)
    # Far below the crossover the linear term ranks, far above it the quadratic one.
    assert expanded(summary.by_step_size["0.015625"]) == found["linear"]
    assert expanded(summary.by_step_size["64"]) == found["overlap"]
    assert auroc(found["lwf"], "c") == precision_at(found["lwf"], "c", 1) == 1
    assert score_summary(scored(), [None] * 4, "lwf") is None


def test_scores_of_forward_passes_have_no_step_size():
    nothing = dict.fromkeys(
        ["confidence_linear", "confidence_quadratic", "step_size", "step_size_crossover"], [None] * 4
    )
    rows = scored(**nothing, reference_loss=[0.5, 0.1, 0.3, 0.9])
    summary = score_summary(rows, ["conflicting", "neutral", "helpful", "helpful"], "interference")
    assert set(summary.rankings) == {"interference", "loss"}
    assert expanded(summary.rankings["interference"]) != ""
    assert (summary.crossover, summary.by_step_size) == (None, {})
