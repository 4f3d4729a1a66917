"""Selection: how many, which, in what order, and a record that explains each choice."""

import json
import math
from collections import Counter
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from graceful_forgetting.selection import select_for_unlearning, select_retained, select_with_audit

SCORES = [0.5, None, 3.0, -1.0, 3.0, math.nan, 2.0, math.inf]
TASKS = ["a", "a", "a", "b", "b", "b", "b", "a"]


def scored_rows(scores: list[float | None] = SCORES, tasks: list[str] | None = TASKS) -> Dataset:
    columns: dict[str, list[Any]] = {
        "forgetting_confidence": scores,
        "text": [f"row {i}" for i in range(len(scores))],
    }
    columns["confidence_linear"] = [i / 10 for i in range(len(scores))]
    columns["confidence_quadratic"] = [i / 100 for i in range(len(scores))]
    return Dataset.from_dict(columns | ({"forgetting_task": tasks} if tasks is not None else {}))


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ({"count": 3}, [2, 4, 6]),
        ({"count": 1}, [2]),
        ({"count": 5}, [2, 4, 6, 0, 3]),
        ({"count": 2, "strategy": "lowest"}, [3, 0]),
        ({"count": 5, "strategy": "lowest"}, [3, 0, 6, 2, 4]),
        ({"fraction": 0.4}, [2, 4]),
        ({"fraction": 0.01}, [2]),
        ({"fraction": 1}, [2, 4, 6, 0, 3]),
        ({"threshold": 2.0, "strategy": "threshold"}, [2, 4, 6]),
        ({"threshold": -5, "strategy": "threshold"}, [2, 4, 6, 0, 3]),
        ({"threshold": 9.0, "strategy": "threshold"}, []),
        ({"quotas": {"a": 1, "b": 2}}, [2, 4, 6]),
        ({"quotas": {"b": 1.0}}, [4, 6, 3]),
        ({"quotas": {"b": 1}}, [4]),
        ({"quotas": {"a": 0.5, "b": 0.34}, "strategy": "lowest"}, [3, 0]),
        ({"quotas": '{"a": 1}'}, [2]),
    ],
)
def test_chosen_rows_and_their_order(arguments, chosen):
    selected = select_for_unlearning(scored_rows(), **arguments)
    assert selected["source_index"][:] == chosen
    assert selected["text"][:] == [f"row {i}" for i in chosen]


@pytest.mark.parametrize(
    ("learned", "lowest"),
    [
        (1.0, 3.0),
        (0.5, 1.5),
        (0.25, 0.75),
        (0.05, 0.15),
        (0.001, 0.15),
        (1.2, 3.0),
        (None, 3.0),
        (0.0, 3.0),
        (-2.0, 3.0),
    ],
)
def test_a_relative_threshold_shrinks_with_what_learning_has_removed_of_its_own_loss(learned, lowest):
    scores = [4.0, 3.0, 2.9, 1.5, 1.4, 0.75, 0.16, 0.14]
    pool = scored_rows(scores, None)
    selected, audit = select_with_audit(pool, strategy="relative", threshold=3.0, learned=learned)
    assert audit["threshold"] == pytest.approx(lowest)
    assert selected["source_index"][:] == [index for index, score in enumerate(scores) if score >= lowest]
    assert (audit["settings"]["threshold"], audit["settings"]["learned"]) == (3.0, learned)
    assert audit["rows"][0]["reason"] == f"score at least {lowest:.4g}"


@pytest.mark.parametrize("rate", [0.1, 0.3, 1.0])
def test_a_relative_threshold_chooses_the_same_rows_at_every_length_of_learning(rate):
    """To first order, what learning does to every loss grows with the rate."""
    scores = [rate * score for score in (0.9, 0.4, 0.31, 0.29, 0.05, -0.2)]
    chosen = select_for_unlearning(scored_rows(scores, None), strategy="relative", threshold=0.3, learned=rate)
    assert chosen["source_index"][:] == [0, 1, 2]
    if rate < 0.5:
        flat = select_for_unlearning(scored_rows(scores, None), strategy="threshold", threshold=0.3)
        assert len(flat) == 0


def test_random_choice_depends_on_the_seed_alone():
    scores = [float(i) for i in range(50)]
    first = select_for_unlearning(scored_rows(scores, None), count=20, strategy="random", seed=1)["source_index"][:]
    backwards = scored_rows(scores[::-1], None)
    assert select_for_unlearning(backwards, count=20, strategy="random", seed=1)["source_index"][:] == first
    assert select_for_unlearning(backwards, count=20, strategy="random", seed=2)["source_index"][:] != first
    assert len(set(first)) == 20
    # A larger choice from the same seed extends the smaller one, so that fractions can be compared.
    assert select_for_unlearning(backwards, count=30, strategy="random", seed=1)["source_index"][:20] == first


def test_audit_is_json_and_explains_every_choice():
    selected, audit = select_with_audit(scored_rows(), quotas={"a": 1, "b": 0.5})
    assert json.loads(json.dumps(audit, allow_nan=False)) == audit
    assert selected["source_index"][:] == [row["index"] for row in audit["rows"]] == [2, 4, 6]
    assert (audit["total"], audit["eligible"], audit["chosen"]) == (8, 5, 3)
    assert audit["not_eligible"] == {"no score": 1, "score not finite": 2}
    assert audit["tasks"] == {
        "a": {"total": 4, "eligible": 2, "chosen": 1, "cut_score": 3.0},
        "b": {"total": 4, "eligible": 3, "chosen": 2, "cut_score": 2.0},
    }
    assert audit["cut_score"] == 2.0
    assert audit["score_quantiles"]["0.0"] == -1.0
    assert audit["score_quantiles"]["0.5"] == 2.0
    assert audit["score_quantiles"]["1.0"] == 3.0
    assert audit["rows"][2] == {
        "index": 6,
        "task": "b",
        "score": 2.0,
        "linear": 0.6,
        "quadratic": 0.06,
        "rank": 3,
        "reason": "rank 3 of 5 by highest score, within quota 0.5 of b",
    }
    assert audit["settings"]["quotas"] == {"a": 1, "b": 0.5}
    assert audit["settings"]["score_column"] == "forgetting_confidence"


@pytest.mark.parametrize(
    ("arguments", "reason", "cut"),
    [
        ({"fraction": 0.2}, "rank 1 of 5 by highest score, within fraction 0.2", 3.0),
        ({"count": 1, "strategy": "lowest"}, "rank 1 of 5 by lowest score, within count 1", -1.0),
        ({"threshold": 2.5, "strategy": "threshold"}, "score at least 2.5", 3.0),
        (
            {"count": 2, "strategy": "random", "seed": 9},
            "drawn 1 of 5 at random (seed 9), within count 2",
            None,
        ),
    ],
)
def test_reason_and_cut_of_each_strategy(arguments, reason, cut):
    audit = select_with_audit(scored_rows(), **arguments)[1]
    assert audit["rows"][0]["reason"] == reason
    assert audit["cut_score"] == cut


def test_audit_without_tasks_and_terms():
    rows = scored_rows(tasks=None).remove_columns(["confidence_linear", "confidence_quadratic"])
    audit = select_with_audit(rows.rename_column("forgetting_confidence", "loss"), count=1, score_column="loss")[1]
    assert audit["tasks"] == {}
    assert audit["rows"][0]["task"] is audit["rows"][0]["linear"] is audit["rows"][0]["quadratic"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"fraction": -0.1}, "fraction=-0.1"),
        ({"fraction": math.nan}, "fraction=nan"),
        ({"count": 0}, "count=0"),
        ({"count": 6}, "count=6 is not valid: it must be from 1 to 5"),
        ({"fraction": 0.5, "count": 2}, r"fraction=0\.5, count=2 are set together"),
        ({"strategy": "threshold"}, "needs a threshold"),
        ({"strategy": "highest", "threshold": 1.0}, "needs a threshold, and no other strategy takes one"),
        ({"strategy": "best", "count": 1}, "strategy='best'.*highest, lowest"),
        ({"quotas": {"c": 1, "a": 1}}, "unknown forgetting tasks: c; there are: a, b"),
        ({"quotas": {"a": 3}}, r"quotas\['a'\]=3 is not valid: it must be from 1 to 2"),
        ({"quotas": {"a": 0}}, r"quotas\['a'\]=0 is not valid"),
        ({"quotas": {"a": 1.5}}, r"quotas\['a'\]=1.5 is not valid: a share must be in \(0, 1\]"),
        ({"quotas": {"a": True}}, r"quotas\['a'\]=True is not valid"),
        ({"quotas": {"a": "1"}}, r"quotas\['a'\]='1' is not valid"),
        ({"quotas": {}}, "names no forgetting task"),
        (
            {"quotas": {"a": 1}, "task_column": "kind"},
            r"no column 'kind' \(for quotas\); its columns: .*text",
        ),
        (
            {"count": 1, "score_column": "fc"},
            r"no column 'fc' \(for the score\); its columns: .*forgetting_confidence",
        ),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_for_unlearning(scored_rows(), **arguments)


def test_bad_data_are_refused():
    with pytest.raises(ValueError, match=r"no row has a usable score .*1 x no score, 1 x score not finite"):
        select_for_unlearning(scored_rows([None, math.nan], ["a", "a"]), fraction=1.0)
    with pytest.raises(ValueError, match=r"quotas\['b'\]=0.5: there is no row with a score"):
        select_for_unlearning(scored_rows([1.0, None], ["a", "b"]), quotas={"b": 0.5})
    with pytest.raises(ValueError, match="has no rows"):
        select_for_unlearning(scored_rows().select([]), fraction=1.0)
    with pytest.raises(ValueError, match="has a column 'source_index'"):
        select_for_unlearning(select_for_unlearning(scored_rows(), count=2), count=1)
    with pytest.raises(TypeError, match=r"must be a datasets\.Dataset"):
        select_for_unlearning([{"forgetting_confidence": 1.0}], count=1)


finite = st.floats(-1e6, 1e6)
pools = st.lists(st.tuples(st.one_of(finite, st.none()), st.sampled_from("abc")), min_size=1, max_size=25).filter(
    lambda rows: any(score is not None for score, _ in rows)
)


@settings(max_examples=60, deadline=None)
@given(pools, st.floats(0.01, 1.0), st.sampled_from(["highest", "lowest", "random"]))
def test_size_order_and_determinism(rows, fraction, strategy):
    scores, tasks = [score for score, _ in rows], [task for _, task in rows]
    data = scored_rows(scores, tasks)
    chosen = select_for_unlearning(data, fraction=fraction, strategy=strategy)["source_index"][:]
    eligible = [i for i, score in enumerate(scores) if score is not None]
    assert len(chosen) == max(1, round(fraction * len(eligible)))
    assert set(chosen) <= set(eligible)
    assert len(set(chosen)) == len(chosen)
    assert select_for_unlearning(data, fraction=fraction, strategy=strategy)["source_index"][:] == chosen
    if strategy != "random":
        sign = -1 if strategy == "highest" else 1
        keys = [(sign * scores[i], i) for i in chosen]
        assert keys == sorted(keys)
        assert all(keys[-1] < (sign * scores[i], i) for i in set(eligible) - set(chosen))


@settings(max_examples=60, deadline=None)
@given(pools, st.data())
def test_quotas_choose_as_if_each_task_stood_alone(rows, data):
    scores, tasks = [score for score, _ in rows], [task for _, task in rows]
    available = Counter(task for score, task in rows if score is not None)
    quotas = {
        task: data.draw(st.one_of(st.integers(1, number), st.floats(0.01, 1.0))) for task, number in available.items()
    }
    scored = scored_rows(scores, tasks)
    chosen = select_for_unlearning(scored, quotas=quotas)["source_index"][:]
    for task, quota in quotas.items():
        alone = [i for i in range(len(rows)) if tasks[i] == task]
        how_many = {"count": quota} if isinstance(quota, int) else {"fraction": quota}
        expected = select_for_unlearning(scored.select(alone), **how_many)["source_index"][:]
        assert [i for i in chosen if tasks[i] == task] == [alone[i] for i in expected]
    assert len(chosen) == sum(row["chosen"] for row in select_with_audit(scored, quotas=quotas)[1]["tasks"].values())


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=1, max_size=25, unique=True), st.data())
def test_order_of_rows_does_not_matter_where_scores_differ(scores, data):
    permutation = data.draw(st.permutations(range(len(scores))))
    count = data.draw(st.integers(1, len(scores)))
    strategy = data.draw(st.sampled_from(["highest", "lowest"]))
    rows = scored_rows(scores, None)
    chosen = select_for_unlearning(rows, count=count, strategy=strategy)
    permuted = select_for_unlearning(rows.select(permutation), count=count, strategy=strategy)
    assert permuted["text"][:] == chosen["text"][:]


# How many, and how much ----------------------------------------------------------------------------------------------


def test_gap_cuts_where_the_scores_part():
    scores = [0.1, 5.0, 0.2, 4.8, 0.3, 4.9, 0.0, 9.0, 0.15, 0.25]
    rows = scored_rows(scores, None)
    chosen = select_for_unlearning(rows, strategy="gap")["source_index"][:]
    assert chosen == [7, 1, 5, 3]


@settings(deadline=None)
@given(
    scores=st.lists(st.floats(-10, 10).map(lambda value: round(value, 3)), min_size=1, max_size=30),
)
def test_gap_is_the_largest_that_the_bounds_allow(scores):
    low, high = 0.05, 0.5
    selected, audit = select_with_audit(scored_rows(scores, None), strategy="gap")
    ordered, number, chosen = sorted(scores, reverse=True), len(scores), len(selected)
    fewest = max(1, round(low * number))
    most = max(fewest, round(high * number))
    assert fewest <= chosen <= most
    gaps = {k: ordered[k - 1] - ordered[k] for k in range(fewest, most + 1) if k < number}
    if gaps:
        assert gaps[chosen] == max(gaps.values())
        assert chosen == min(k for k, gap in gaps.items() if gap == gaps[chosen])
    assert all("above the largest gap" in row["reason"] for row in audit["rows"])


@settings(deadline=None)
@given(scores=st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=20))
def test_weights_are_ranks_of_mean_one(scores):
    selected = select_for_unlearning(scored_rows(scores, None), strategy="weighted")
    assert sorted(selected["source_index"][:]) == list(range(len(scores)))
    weights = dict(zip(selected["source_index"][:], selected["unlearn_weight"][:], strict=True))
    assert sum(weights.values()) / len(weights) == pytest.approx(1.0)
    for index, score in enumerate(scores):
        below = sum(other < score for other in scores)
        equal = scores.count(score)
        assert weights[index] == pytest.approx(2 * (below + (equal + 1) / 2) / (len(scores) + 1))


def test_strategies_that_find_the_number_take_none():
    with pytest.raises(ValueError, match=r"fraction=0\.5 with strategy='gap'"):
        select_for_unlearning(scored_rows(), strategy="gap", fraction=0.5)
    weighted = select_for_unlearning(scored_rows(), strategy="weighted").remove_columns("source_index")
    with pytest.raises(ValueError, match="'unlearn_weight', which selection adds"):
        select_for_unlearning(weighted, strategy="weighted")


def test_retained_rows_are_the_lowest_that_are_not_selected():
    rows = scored_rows()
    selected = select_for_unlearning(rows, count=2, strategy="lowest")
    assert selected["text"][:] == ["row 3", "row 0"]
    assert select_retained(rows, selected)["text"][:2] == ["row 6", "row 2"]
    assert select_retained(rows, select_for_unlearning(rows, count=2))["text"][:] == ["row 3", "row 0", "row 6"]
    assert select_retained(rows, select_for_unlearning(rows, fraction=1.0)) is None
