"""What a user is told of a selection."""

import pytest
from datasets import Dataset

from graceful_forgetting.selection import select_with_audit
from graceful_forgetting.training.preparation import much_selected, nothing_selected, selection_remark


def audit(scores, learned=None, **settings):
    return select_with_audit(Dataset.from_dict({"forgetting_confidence": scores}), learned=learned, **settings)[1]


def test_nothing_chosen_by_a_flat_threshold():
    text = nothing_selected(audit([0.1, 0.4], strategy="threshold", threshold=0.5))
    assert text.startswith("No score reaches forget_threshold=0.5 (the highest is 0.4): nothing is unlearned")
    assert "raise learning_rate" not in text


def test_nothing_chosen_by_a_relative_threshold_says_how_far_learning_had_come():
    text = nothing_selected(audit([0.1, 0.01], learned=0.5, strategy="relative", threshold=0.3))
    assert "No score reaches 0.15, forget_threshold=0.3 times the share" in text
    assert "(50%)" in text
    assert "the highest is 0.1" in text
    assert "raise learning_rate" not in text


@pytest.mark.parametrize(("learned", "said"), [(0.004, "0.4%"), (-0.3, "0.0%")])
def test_a_reference_run_that_has_hardly_learned_is_the_reason(learned, said):
    text = nothing_selected(audit([0.001], learned=learned, strategy="relative", threshold=0.3))
    assert f"has removed {said} of the learning task's loss, too little to tell by: raise learning_rate" in text


def test_a_threshold_that_leaves_next_to_nothing_is_said():
    pool = [3.0] * 8 + [0.1] * 2
    text = much_selected(audit(pool, learned=0.9, strategy="relative", threshold=0.3))
    assert text is not None
    assert text.startswith("8 of 10 scores reach 0.27, forget_threshold=0.3 times")
    assert "the median is 3" in text
    assert "lower learning_rate" in text
    assert much_selected(audit([*pool, 0.1], strategy="threshold", threshold=0.3)) is None
    # What a user has asked for by a number is no surprise.
    assert much_selected(audit(pool, fraction=1.0)) is None


def test_the_remark_on_a_selection_is_the_odd_one_or_how_much_is_chosen():
    assert selection_remark(audit([1.0, 0.1], strategy="threshold", threshold=0.5)) == (
        "1 of 2 samples are unlearned: their scores reach forget_threshold=0.5"
    )
    assert selection_remark(audit([1.0, 0.1], fraction=0.5)) == "1 of 2 samples are unlearned"
    assert "No score reaches" in selection_remark(audit([0.1], strategy="threshold", threshold=0.5))
    assert "2 of 2 scores reach" in selection_remark(audit([1.0, 1.0], strategy="threshold", threshold=0.5))
