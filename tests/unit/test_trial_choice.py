"""What is tried, and which of it is chosen."""

import math

import pytest
from datasets import Dataset

from graceful_forgetting.config import SelectionConfig
from graceful_forgetting.posterior import NonFiniteLossError
from graceful_forgetting.training.trials import (
    FORGET_FIRST,
    NOTHING,
    SETTINGS,
    Candidate,
    candidates,
    chosen_by_trial,
    describe,
    is_by_score,
    loss_unless_diverged,
)

TASKS = ["a", "a", "b", "b", "b", "c"]
SCORES = [5.0, 4.0, 3.0, 2.0, None, 1.0]


def scored(tasks=TASKS, scores=SCORES) -> Dataset:
    return Dataset.from_dict({"forgetting_task": list(tasks), "forgetting_confidence": list(scores)})


def rows(tried) -> dict[str, set[int]]:
    return {name: set(candidate.selected["source_index"]) for name, candidate in tried.items()}


def test_nothing_the_choice_by_score_and_every_task_are_tried():
    tried = rows(candidates(scored(), SelectionConfig(fraction=0.6)))
    assert tried == {
        "nothing": set(), "by score": {0, 1, 2}, "task a": {0, 1}, "task b": {2, 3}, "task c": {5},
    }  # fmt: skip
    assert next(iter(tried)) == NOTHING


def test_each_is_tried_a_second_time_before_learning():
    once = candidates(scored(), SelectionConfig(fraction=0.6))
    twice = candidates(scored(), SelectionConfig(fraction=0.6), first=True)
    assert list(twice) == [*once, *(f"first: {name}" for name in once if name != NOTHING)]
    for name, candidate in once.items():
        assert SETTINGS not in twice[name].audit
        if name != NOTHING:
            first = twice[f"first: {name}"]
            assert rows({"": first}) == rows({"": candidate})
            assert first.audit == {**candidate.audit, SETTINGS: FORGET_FIRST}
    assert [name for name in twice if is_by_score(name)] == ["by score", "first: by score"]


def test_what_is_the_same_as_the_choice_by_score_is_not_tried_twice():
    assert list(candidates(scored(), SelectionConfig(count=2))) == ["nothing", "by score", "task b", "task c"]


def test_a_task_that_is_all_there_is_and_a_task_without_scores_are_left_out():
    alone = candidates(scored(["a"] * 6), SelectionConfig(count=2))
    assert list(alone) == ["nothing", "by score"]
    without = candidates(scored(scores=[1.0, 2.0, None, None, None, 3.0]), SelectionConfig(count=2))
    assert set(without) == {"nothing", "by score", "task a", "task c"}


def test_a_threshold_that_no_score_reaches_leaves_the_tasks_to_try():
    tried = rows(candidates(scored(), SelectionConfig(strategy="threshold", threshold=9.0)))
    assert tried == {"nothing": set(), "task a": {0, 1}, "task b": {2, 3}, "task c": {5}}


def test_a_relative_threshold_is_tried_as_it_is_without_trials():
    config = SelectionConfig(strategy="relative", threshold=8.0)
    assert rows(candidates(scored(), config, learned=0.5))["by score"] == {0, 1}
    assert "by score" not in candidates(scored(), config)


def test_the_record_of_nothing_counts_nothing():
    audit = candidates(scored(), SelectionConfig(fraction=0.5))[NOTHING].audit
    assert (audit["chosen"], audit["rows"], audit["cut_score"]) == (0, [], None)
    assert {counts["chosen"] for counts in audit["tasks"].values()} == {0}
    assert audit["eligible"] == 5


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ({"nothing": 2.0, "x": 1.0, "y": 3.0}, "x"),
        ({"nothing": 1.0, "x": 1.0, "y": 1.0}, "nothing"),
        ({"nothing": math.nan, "x": 4.0, "y": 5.0}, "x"),
        ({"nothing": math.inf, "x": math.nan, "y": 5.0}, "y"),
        ({"nothing": 6.0, "x": None, "y": 5.0}, "y"),
        ({"nothing": math.nan, "x": math.nan, "y": math.nan}, "nothing"),
    ],
    ids=str,
)
def test_the_lowest_held_out_loss_is_chosen(losses, best):
    tried = {name: Candidate(scored(), {"chosen": name}) for name in losses}
    chosen = chosen_by_trial(tried, losses)
    assert chosen.audit["chosen"] == best
    assert chosen.audit["trials"]["chosen"] == best
    assert chosen.audit["trials"]["fraction"] == 1.0
    assert list(chosen.audit["trials"]["held_out_losses"]) == list(losses)


def diverges() -> float:
    raise NonFiniteLossError("the learning loss is nan")


def test_a_candidate_that_diverges_loses_and_the_record_says_so():
    assert loss_unless_diverged("task a", diverges) is None
    assert loss_unless_diverged("task a", lambda: math.nan) is None
    assert loss_unless_diverged("task a", lambda: 2.0) == 2.0
    tried = {name: Candidate(scored(), {}) for name in ("nothing", "task a")}
    chosen = chosen_by_trial(tried, {"nothing": 2.0, "task a": None})
    assert "nothing 2, task a diverged" in describe(chosen.audit)


def test_learning_that_diverges_by_itself_is_an_error():
    with pytest.raises(NonFiniteLossError, match="learning loss is nan"):
        loss_unless_diverged(NOTHING, diverges)
