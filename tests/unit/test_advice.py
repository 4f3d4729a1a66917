"""What `graceful advise` makes of scores."""

import dataclasses
from statistics import median

import pytest
from scipy import stats

from graceful_forgetting.runs.advice import CONFLICT, HARMLESS, MIN_SAMPLES, advice_text, advise, gather_evidence


def evidence(samples=400, crossovers=10.0, apart=1.0, raised=2.5, measured=True):
    """Two tasks of equal size; the second scores `apart` higher; learning changes the loss by `raised`."""
    half = samples // 2
    scores = [i / half for i in range(half)] + [apart + i / half for i in range(half)]
    columns = {
        "forgetting_confidence": scores,
        "confidence_quadratic": [1.0 + score for score in scores],
        "step_size": [crossovers] * samples,
        "step_size_crossover": [1.0] * samples,
    }
    tasks = ["a"] * half + ["b"] * half
    chosen = [False] * half + [True] * half
    changes = [-0.1] * half + [raised] * half if measured else None
    return gather_evidence(columns, tasks, chosen, changes)


@pytest.mark.parametrize(
    ("found", "said"),
    [((1.15, 1.5), "1.32 (going further is better"), ((0.7,), "0.7 (going less far"), ((1.0,), "1 (neither")],
)
def test_a_line_search_is_a_signal_and_no_verdict(found, said):
    plain = evidence()
    searched = dataclasses.replace(plain, line_search=found)
    assert advise(searched) == advise(plain)
    assert f"median of {len(found)} run(s): {said}" in advice_text(searched, advise(searched))
    assert "line search" not in advice_text(plain, advise(plain))


def test_clear_scores_of_what_learning_disturbs_are_a_reason_to_forget():
    found = evidence()
    assert advise(found).verdict == "expected to help"
    assert [task.task for task in found.tasks] == ["b", "a"]
    assert found.disturbed == pytest.approx(0.5)
    assert found.chosen_interference == pytest.approx(2.5)
    assert (found.crossovers, found.beyond_crossover) == (10.0, 1.0)
    text = advice_text(found, advise(found))
    assert "Forgetting is expected to help" in text
    assert "b: 200, 100%" in text


@pytest.mark.parametrize("raised", [-0.2, 0.0, HARMLESS - 0.01])
def test_what_learning_does_not_disturb_need_not_be_forgotten(raised):
    assert advise(evidence(raised=raised)).verdict == "not expected to help"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"samples": MIN_SAMPLES - 2}, "few"),
        ({"crossovers": 0.5}, "raise confidence_step_size"),
        ({"measured": False}, "not measured"),
        ({"raised": CONFLICT - 0.01}, "between"),
        ({"apart": 0.0}, "do not tell forgetting tasks apart"),
    ],
)
def test_thin_evidence_is_said_to_be_thin(changes, reason):
    advice = advise(evidence(**changes))
    assert advice.verdict == "not known"
    assert any(reason in text for text in advice.reasons)
    assert "is not known" in advice_text(evidence(**changes), advice)


def test_a_step_at_the_median_crossover_is_not_below_it():
    """The median of α/α× is rounded: here to less than 1, with α the median of α×."""
    crossovers = [1.1363346265310352, 1.1363346265310355] * 200
    columns = {
        "forgetting_confidence": [float(i) for i in range(400)],
        "confidence_quadratic": [1.0] * 400,
        "step_size": [median(crossovers)] * 400,
        "step_size_crossover": crossovers,
    }
    tasks = ["a"] * 200 + ["b"] * 200
    found = gather_evidence(columns, tasks, [True] * 400, [2.0] * 400)
    assert found.crossovers < 1
    assert advise(found).verdict == "expected to help"


def test_separation_is_that_of_kruskal_and_wallis_and_needs_two_tasks():
    found = evidence(apart=0.3)
    scores = [i / 200 for i in range(200)]
    h = stats.kruskal(scores, [0.3 + score for score in scores]).statistic
    assert found.separation == pytest.approx(h / 399)
    columns = {name: [1.0, 2.0] for name in ("forgetting_confidence", "confidence_quadratic")}
    columns |= {name: [None, None] for name in ("step_size", "step_size_crossover")}
    one = gather_evidence(columns, ["a", "a"], [True, False], None)
    assert one.separation is one.crossovers is None
    assert advise(one).verdict == "not known"
    with pytest.raises(ValueError, match="no sample has a score"):
        gather_evidence({**columns, "forgetting_confidence": [None, None]}, ["a", "a"], [True, False], None)


def without_steps(scorer="interference", chosen=None, share=0.1):
    columns = dict.fromkeys(("confidence_quadratic", "step_size", "step_size_crossover"), [None] * 400)
    columns["forgetting_confidence"] = [0.0] * 200 + [2.0] * 200
    chosen = [False] * 200 + [True] * 200 if chosen is None else chosen
    return gather_evidence(columns, ["a"] * 200 + ["b"] * 200, chosen, [0.0] * 200 + [2.0] * 200, scorer, share)


def test_a_threshold_that_no_score_reaches_says_that_forgetting_will_not_help():
    advice = advise(without_steps(chosen=[False] * 400))
    assert advice.verdict == "not expected to help"
    assert "nothing would be unlearned" in advice.reasons[0]


def test_interference_needs_no_step():
    assert advise(without_steps(share=1.0)).verdict == "expected to help"


def test_the_beginning_of_learning_promises_nothing():
    advice = advise(without_steps())
    assert advice.verdict == "not known"
    assert "in its first 10%" in advice.reasons[0]


def test_the_beginning_of_learning_says_what_it_has_seen_of_a_few_prompts_too():
    columns = dict.fromkeys(("confidence_quadratic", "step_size", "step_size_crossover"), [None] * 4)
    columns["forgetting_confidence"] = [0.0, 1.0, 0.5, 0.0]
    changes = list(columns["forgetting_confidence"])
    said = "2 of 4 samples are unlearned"
    chosen = [False, True, True, False]
    found = gather_evidence(columns, ["a"] * 4, chosen, changes, "interference", 0.1, said, 0.42)
    advice = advise(found)
    assert (advice.verdict, advice.reasons[0]) == ("not known", said)
    assert "by +0.75 nats per token in its first 10%, which remove 42% of the learning task's loss" in advice.reasons[1]
    assert "4 scored samples are few" in advice.reasons[-1]
    text = advice_text(found, advice, "x − plain on y: +1.0")
    assert text.startswith(
        "What came of this run: x − plain on y: +1.0\n\nFrom the scores alone, whether forgetting helps is not known:"
    )
    assert "gone after the reference run: 0.42" in text


def test_a_reference_run_that_has_hardly_learned_leaves_it_open():
    columns = {"confidence_quadratic": [None], "step_size": [None], "step_size_crossover": [None]}
    columns |= {"forgetting_confidence": [0.0]}
    for learned, verdict in ((0.01, "not known"), (0.5, "not expected to help")):
        found = gather_evidence(columns, ["a"], [False], [0.0], "interference", 0.1, "No score reaches it", learned)
        assert (advise(found).verdict, advise(found).reasons) == (verdict, ["No score reaches it"])


def test_a_score_that_was_not_measured_against_outcomes_is_named():
    advice = advise(without_steps(scorer="loss", share=1.0))
    assert advice.verdict == "not known"
    assert any("scorer loss was not measured" in reason for reason in advice.reasons)
