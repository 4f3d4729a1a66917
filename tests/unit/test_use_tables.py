"""Tables over the uses of a real model, against the archived cells themselves."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from evidence.tables.specs import runs
from evidence.tables.uses import (
    BY_DRAW,
    PoolRanking,
    asked_again,
    found_in_pool,
    learned_tasks,
    scores_of_uses,
    use_and_harm,
)
from graceful_forgetting.results.result import ChoiceMetrics
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.comparison import groups_of
from sweep_data import cell

TRIALS = "uses/identity-trials"


def _rows(text: str) -> dict[str, dict[str, str]]:
    head, _, *lines = (line for line in text.splitlines() if line.startswith("|"))
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(columns, row, strict=True)) for row in cells}


def test_a_run_that_pollutes_too_much_counts_as_nothing() -> None:
    """Of `w2` one run pollutes 1 of 60 answers and the other 9; plain fine-tuning pollutes 8 and 17."""
    found = _rows(use_and_harm(runs(TRIALS), "unrelated", 0.05))
    (group,) = runs(TRIALS)
    assert [cell.metrics["unrelated"].correct for cell in group.methods["w2"].values()] in ([59, 51], [51, 59])
    answers = "".join(cell.answers for cell in group.methods["w4"].values())
    assert found["w4"]["old, %"] == f"{100 * answers.count('0') / len(answers):.1f}" == "5.0"
    kept = [cell.score for cell in group.methods["w2"].values() if cell.metrics["unrelated"].correct == 59]
    assert found["w2"]["runs within 5.0 %"] == "1"
    assert found["w2"]["new where within, %"] == f"{100 * kept[0] / 2:.1f}"
    assert found["plain"]["runs within 5.0 %"] == found[BY_DRAW]["runs within 5.0 %"] == "0"
    assert found["plain"]["new, %"] == f"{100 * fmean(cell.score for cell in group.methods['plain'].values()):.1f}"
    assert found["w4"]["gain over plain, points"].startswith("+87.5 [")


def test_three_of_sixty_are_five_percent() -> None:
    """1 − 57/60 is above .05 in floating point."""
    found = _rows(use_and_harm(runs(TRIALS), "unrelated", 0.05))
    assert found["w4-2e-4"]["polluted, %"] == "5.0"
    assert found["w4-2e-4"]["runs within 5.0 %"] == "1"


def test_what_a_score_finds_is_told_by_kind() -> None:
    (row,) = _rows(found_in_pool(runs(TRIALS), "w2-long-cut", "interference")).values()
    (cell,) = runs(TRIALS)[0].methods["w2-long-cut"].values()
    assert cell.selection is not None
    chosen = cell.selection.chosen_by_kind
    assert row["chosen that conflict"] == f"{chosen['conflicting']} of 60"
    assert row["chosen of the others"] == f"{chosen['neutral']} of 100"
    assert float(row["AUROC"]) > 0.95


def test_questions_that_are_asked_again_are_told_beside_the_first() -> None:
    def measured(method: str, seed: int, **right: float):
        made = cell(method, seed)
        first = made.metrics["sums"]
        return replace(made, metrics={task: replace(first, accuracy=share) for task, share in right.items()})

    cells = [measured("plain", seed, sums=0.4, food=1.0, again=0.2 + 0.1 * seed, fare=0.9) for seed in range(3)]
    cells += [measured("lwf", seed, sums=0.8, food=0.95, again=0.6 + 0.1 * seed, fare=1.0) for seed in range(2)]
    found = _rows(asked_again(groups_of(cells), "lwf", "food", ("again", "fare")))
    assert list(found["plain"].values())[2:] == ["3", "40.0", "0.0", "30.0", "20.0", "10.0", "+40.0 [40.0, 40.0]"]
    assert list(found["lwf"].values())[2:] == ["2", "80.0", "5.0", "65.0", "60.0", "0.0", ""]


def test_scores_of_uses_are_told_by_use_and_scorer(tmp_path: Path) -> None:
    rankings = [
        PoolRanking("facts", 0, "interference", 0.5, "c2n2", "c2"),
        PoolRanking("facts", 1, "interference", 0.5, "cn2c", "cn"),
        PoolRanking("facts", 0, "token_interference", 0.5, "ncnc", ""),
    ]
    archive = tmp_path / "scores.jsonl"
    archive.write_text("".join(json.dumps(vars(ranking)) + "\n" for ranking in rankings), encoding="utf-8")
    lines = [line for line in scores_of_uses(archive).splitlines() if line.startswith("| `facts`")]
    assert lines == [
        "| `facts` | `interference` | 2 | 0.750 | 0.500 | 2 of 2 | 0 of 2 |",
        "| `facts` | `token_interference` | 1 | 0.250 | 0.250 | 0 of 2 | 0 of 2 |",
    ]


def _likeliest(learning: str, method: str, seed: int, right: float, bits: float) -> CellResult:
    """A cell of which likelihoods alone were measured."""
    made = cell(method, seed, learning)
    choice = ChoiceMetrics(0.1, right, 0.25, 0.0, (right - 0.25) / 0.75)
    learned = replace(made.metrics[learning], accuracy=None, correct=None, choice=choice, bits_per_byte=bits)
    return replace(made, metrics={**made.metrics, learning: learned})


def test_all_pairs_of_runs_stand_in_a_row_of_their_own() -> None:
    gains = {"sums": (0.1, 0.12), "words": (0.2, 0.22)}
    cells = [
        _likeliest(task, method, seed, 0.4 + (gain if method == "lwf" else 0), 0.5)
        for task, by_seed in gains.items()
        for seed, gain in enumerate(by_seed)
        for method in ("plain", "lwf")
    ]
    rows = _rows(learned_tasks(groups_of(cells), "lwf"))
    assert list(rows) == ["sums", "words", "all"]
    assert (rows["all"]["pairs"], rows["all"]["chosen"]) == ("4", "3 of 9")
    # Mean .16, standard deviation .0589, of four.
    assert rows["all"]["gain, points"] == "+16.0 [6.6, 25.4]"
    assert rows["all"]["did forgetting help"] == "yes"


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [((0.1, 0.12, 0.11), "yes"), ((-0.1, -0.12, -0.11), "no, it harmed"), ((0.1, -0.1, 0.02), "cannot be told")],
)
def test_a_pair_of_tasks_says_whether_forgetting_helped(gains: tuple[float, ...], verdict: str) -> None:
    cells = [_likeliest("sums", "plain", seed, 0.4 + 0.1 * seed, 0.5) for seed in range(3)]
    cells += [_likeliest("sums", "lwf", seed, 0.4 + 0.1 * seed + gain, 0.4) for seed, gain in enumerate(gains)]
    rows = _rows(learned_tasks(groups_of(cells), "lwf"))
    assert list(rows) == ["sums"]
    found = rows["sums"]
    assert found["did forgetting help"] == verdict
    assert (found["pairs"], found["plain, %"]) == ("3", "50.0")
    assert found["lwf, %"] == f"{50 + 100 * fmean(gains):.1f}"
    assert found["gain, points"].startswith(f"{100 * fmean(gains):+.1f} [".replace("-", "−"))
    assert found["bits per byte saved"].startswith("+0.100 [")
    assert found["of the others"].startswith("+0.000 [")
    assert found["chosen"] == "3 of 9"
