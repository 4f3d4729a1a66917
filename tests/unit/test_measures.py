"""The measures against slow versions that anyone can check by eye, and their properties."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from graceful_forgetting.results.measures import (
    answer_split,
    area_under_curve,
    auroc,
    by_falling_score,
    difference_over_seeds_and_items,
    distance_to_reference,
    evidence_required,
    expanded,
    gap_recovered_over,
    mean_ranks,
    memorisation_ratio,
    newly_right_and_broken,
    precision_at,
    run_lengths,
    wilcoxon_p,
)
from graceful_forgetting.results.statistics import gap_recovered

# A busy machine is no failure.
unhurried = settings(deadline=None, max_examples=40)
answers = st.text(alphabet="10-", min_size=1, max_size=40)
rankings = st.text(alphabet="chn", min_size=1, max_size=60)


@unhurried
@given(st.lists(st.tuples(st.sampled_from("10-"), st.sampled_from("10-")), max_size=40))
def test_newly_right_and_broken_add_up_to_the_change(pairs):
    before, after = "".join(a for a, _ in pairs), "".join(b for _, b in pairs)
    right, broken = newly_right_and_broken(before, after)
    assert right - broken == after.count("1") - before.count("1")
    assert newly_right_and_broken(after, before) == (broken, right)


def test_newly_right_needs_the_same_items():
    with pytest.raises(ValueError, match="different numbers of items"):
        newly_right_and_broken("11", "1")


@unhurried
@given(answers)
def test_split_is_a_distribution_and_agrees_with_the_memorisation_ratio(text):
    split = answer_split(text)
    assert sum(split.values()) == pytest.approx(1)
    ratio = memorisation_ratio(text)
    if ratio is None:
        assert split["other"] == 1
    else:
        assert ratio == pytest.approx(split["old"] / (split["old"] + split["right"]))


def test_no_answers_cannot_be_split():
    with pytest.raises(ValueError, match="empty"):
        answer_split("")


def test_distance_is_the_largest_gap_between_the_distribution_functions():
    draw = random.Random(0)
    first = [draw.gauss(0, 1) for _ in range(40)]
    second = [draw.gauss(1, 1) for _ in range(30)]
    slow = max(abs(sum(a <= x for a in first) / 40 - sum(b <= x for b in second) / 30) for x in first + second)
    assert distance_to_reference(first, second) == pytest.approx(slow)
    assert distance_to_reference(first, first) == 0
    with pytest.raises(ValueError, match="old_answer"):
        distance_to_reference([], second)


def test_bootstrap_over_seeds_and_items_covers_the_truth():
    """Accuracies .7 and .6 with shared item difficulty: about 95 % of the intervals hold the true difference."""
    draw = np.random.default_rng(0)
    hit = 0
    for _ in range(40):
        first, second = [], []
        difficulty = draw.uniform(size=60)
        for _ in range(6):
            shift = draw.normal(0, 0.03)
            first.append("".join("1" if u < 0.7 + shift else "-" for u in (difficulty + draw.uniform(size=60)) % 1))
            second.append("".join("1" if u < 0.6 + shift else "-" for u in (difficulty + draw.uniform(size=60)) % 1))
        found = difference_over_seeds_and_items(first, second)
        hit += found.low <= 0.1 <= found.high
    assert hit >= 34


def test_bootstrap_over_seeds_and_items_of_one_seed_or_unequal_items():
    one = difference_over_seeds_and_items(["11-"], ["1--"])
    assert (one.value, one.low, one.high) == (pytest.approx(1 / 3), None, None)
    with pytest.raises(ValueError, match="paired"):
        difference_over_seeds_and_items(["11"], ["111"])
    with pytest.raises(ValueError, match="different numbers"):
        difference_over_seeds_and_items(["11", "1"], ["11", "11"])


def test_wilcoxon_of_pairs():
    assert wilcoxon_p([1, 2, 3], [1, 2, 3]) is None
    # All five differences have one sign: 2 of 32 sign patterns are as extreme.
    assert wilcoxon_p([2, 4, 6, 8, 10], [1, 2, 3, 4, 5]) == pytest.approx(2 / 32)
    with pytest.raises(ValueError, match="paired"):
        wilcoxon_p([1], [1, 2])


@pytest.mark.parametrize("differences", [[1, 1, -1, 2, 3], [0, 2, -1, 0, 3, 3], [0, 0, 1], [-2, -2, -2, 1]])
def test_wilcoxon_of_ties_is_that_of_scipy(differences):
    assert wilcoxon_p(differences, [0] * len(differences)) == stats.wilcoxon(differences).pvalue


def test_beyond_random_is_the_difference_of_the_shares():
    plain, method, control, reference = [0.5, 0.6, 0.55], [0.7, 0.8, 0.7], [0.6, 0.6, 0.6], [0.9, 0.95, 0.9]
    beyond = gap_recovered_over(plain, method, control, reference)
    slow = gap_recovered(plain, method, reference).fraction - gap_recovered(plain, control, reference).fraction
    assert beyond.value == pytest.approx(slow)
    assert beyond.low <= beyond.value <= beyond.high
    assert gap_recovered_over(reference, method, control, plain) is None


@unhurried
@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 1)), min_size=1, max_size=10))
def test_area_lies_between_the_extremes_and_is_exact_for_a_line(pieces):
    steps, values = [0], [0.5]
    for width, value in pieces:
        steps.append(steps[-1] + width)
        values.append(value)
    assert min(values) - 1e-9 <= area_under_curve(steps, values) <= max(values) + 1e-9
    assert area_under_curve(steps, steps) == pytest.approx(steps[-1] / 2)


@pytest.mark.parametrize(("steps", "values"), [([0], [1.0]), ([0, 0], [1.0, 1.0]), ([0, 1], [1.0])])
def test_curves_that_are_none(steps, values):
    with pytest.raises(ValueError, match=r"points|rise"):
        area_under_curve(steps, values)


def test_evidence_required_is_a_size_that_was_run():
    assert evidence_required({10: 0.5, 20: 0.8, 40: 0.9}, 0.8) == 20
    assert evidence_required({10: 0.5}, 0.8) is None


@unhurried
@given(
    st.lists(st.tuples(st.integers(0, 1000), st.sampled_from("chn")), min_size=2, max_size=60, unique_by=lambda p: p[0])
)
def test_auroc_of_a_ranking_is_that_of_scikit_learn(samples):
    scores, labels = [score for score, _ in samples], [label for _, label in samples]
    ranking = by_falling_score(scores, labels)
    for negative in (None, "h", "hn"):
        kept = [(s, lab) for s, lab in samples if negative is None or lab in "c" + negative]
        truth = [label == "c" for _, label in kept]
        if not any(truth) or all(truth):
            assert auroc(ranking, "c", negative) is None
        else:
            assert auroc(ranking, "c", negative) == pytest.approx(roc_auc_score(truth, [s for s, _ in kept]))


@unhurried
@given(rankings)
def test_run_lengths_lose_nothing(ranking):
    assert expanded(run_lengths(ranking)) == ranking
    assert len(run_lengths(ranking)) <= len(ranking) or "2" in run_lengths(ranking)


@unhurried
@given(rankings, st.data())
def test_precision_is_a_share_of_the_first(ranking, data):
    count = data.draw(st.integers(1, len(ranking)))
    assert precision_at(ranking, "c", count) * count == pytest.approx(ranking[:count].count("c"))
    with pytest.raises(ValueError, match="count="):
        precision_at(ranking, "c", len(ranking) + 1)


def test_mean_ranks_share_ties_and_leave_out_what_a_world_lacks():
    ranks = mean_ranks([{"a": 0.9, "b": 0.5, "c": 0.5, "d": 1.0}, {"a": 0.1, "b": 0.9, "c": 0.2}])
    assert ranks == {"b": pytest.approx(1.75), "a": pytest.approx(2.0), "c": pytest.approx(2.25)}
    assert list(ranks) == ["b", "a", "c"]
    assert mean_ranks([]) == {}
    assert math.isclose(sum(ranks.values()), 6)
