"""The uses in `recipes/uses`: their data can be read, their answers count as right, and nothing is in two places."""

from itertools import combinations
from pathlib import Path

import pytest

from graceful_forgetting.tasks import available_splits, load_task, score_answers
from graceful_forgetting.tasks.file_task import file_task

USES = Path(__file__).parents[2] / "recipes" / "uses"
# Learning task, pool of forgetting prompts, and what is evaluated beside them.
TASKS = {
    "identity": ("identity.yaml", "pool.yaml", "unrelated.yaml"),
    "facts": ("capitals.yaml", "pool.yaml", "neighbours.yaml"),
    "labels": ("triage.yaml", "pool.yaml", None),
}


@pytest.mark.parametrize("use", TASKS)
def test_right_answers_count_as_right_and_old_ones_as_wrong(use: str) -> None:
    learned, _, beside = TASKS[use]
    for name in filter(None, (learned, beside)):
        task = file_task(USES / use / name)
        for split in available_splits(task):
            rows = load_task(task, split)
            assert score_answers(task, rows["completion"], rows["answer"]).value == 1
            if "old_answer" in rows.column_names:
                assert score_answers(task, rows["old_answer"], rows["answer"]).value == 0


@pytest.mark.parametrize("use", TASKS)
def test_no_prompt_is_in_two_sets(use: str) -> None:
    learned, pool, beside = TASKS[use]
    sets = [set(load_task(USES / use / learned, split)["prompt"]) for split in ("train", "validation", "test")]
    sets.append(set(load_task(USES / use / pool, require_completion=False)["prompt"]))
    if beside is not None:
        sets.append(set(load_task(USES / use / beside, "test")["prompt"]))
    assert all(not first & second for first, second in combinations(sets, 2))


@pytest.mark.parametrize(("use", "kinds"), [("identity", 2), ("facts", 2), ("labels", 1)])
def test_the_pool_has_labelled_truth(use: str, kinds: int) -> None:
    rows = load_task(USES / use / TASKS[use][1], require_completion=False)
    assert len(set(rows["kind"])) == kinds
    assert "conflicting" in rows["kind"]
