"""The table that a run ends with."""

from graceful_forgetting.results.provenance import collect_provenance
from graceful_forgetting.results.result import GuardResult, RunResult, SelectionResult, TaskMetrics, TaskSelection
from graceful_forgetting.results.result import TrainingRunResult as Run
from graceful_forgetting.results.summary import summarise
from graceful_forgetting.results.table import summary_table


def result_of(scores: dict[str, list[int]], stopped: bool = False, **config: str) -> RunResult:
    """Arms -> right answers of 100 per seed on the learning task; the forgetting task has half of them right."""
    runs = []
    for arm, rights in scores.items():
        for seed, right in enumerate(rights):
            guard = GuardResult(stopped and arm == "lwf", "it rose" if stopped else None, 7 if stopped else None)
            metrics = {
                "sums": TaskMetrics("learning", right / 100, right, 100, bits_per_byte=1 + seed / 2),
                "myths": TaskMetrics("forgetting", right / 200, right // 2, 100),
            }
            seed_or_none = None if arm == "base" else seed
            runs.append(Run(arm, seed_or_none, [], metrics, 29 if arm == "lwf" else 0, guard))
    provenance = collect_provenance(
        model_fingerprint="m", data_fingerprints={}, posterior_fingerprint=None, seeds=range(len(scores["plain"]))
    )
    tasks = {"myths": TaskSelection(total=40, chosen=10, kind="conflicting")}
    selection = SelectionResult("highest", 40, 10, 0.5, 1.0, {}, tasks)
    return RunResult("name", "2026-01-01T00:00:00+00:00", config, provenance, [], runs, selection, summarise(runs))


def test_arms_differences_and_counts():
    table = summary_table(result_of({"base": [10], "plain": [70, 72], "lwf": [80, 78], "never_knew": [90, 90]}))
    header, _, sums, myths, *_ = table.splitlines()
    assert header.split() == ["task", "base", "model", "plain", "LWF", "never", "knew", "LWF", "−", "plain"]
    assert sums.startswith("sums (learned)")
    for text in ("10.0", "71.0 ± 1.4", "79.0 ± 1.4", "90.0 ± 0.0", "+8.0 [−17.4, 33.4]"):
        assert text in sums
    assert myths.startswith("myths (forgetting, conflicting)")
    assert "over 2 seeds" in table
    assert "40 self-generated samples scored, 10 selected and unlearned in 29 unlearning updates" in table


def test_further_methods_have_a_column_and_a_difference_of_their_own():
    scores = {"plain": [70, 72], "lwf": [80, 78], "interference": [71, 75], "never_knew": [90, 90]}
    table = summary_table(result_of(scores))
    assert table.splitlines()[0].split()[1:] == ["plain", "LWF", "interference", "never", "knew", "LWF", "−", "plain"]
    assert "73.0 ± 2.8" in table.splitlines()[2]
    assert "sums: interference − plain +2.0 [−10.7, 14.7]" in table
    assert "myths: interference" not in table
    assert "LWF: 40 self-generated samples scored" in table


def test_old_answers_stand_under_the_table_where_there_are_any():
    result = result_of({"base": [10], "plain": [70, 72], "lwf": [80, 78]})
    assert "old answers" not in summary_table(result)
    for run in result.runs:
        run.metrics["sums"].old = {("base", None): 90, ("plain", 0): 20, ("plain", 1): 25}.get((run.arm, run.seed), 0)
    assert "sums: old answers, in %: base model 90.0, plain 22.5, LWF 0.0" in summary_table(result)
    for run in result.runs:
        run.metrics["sums"].old = 0
    assert "old answers" not in summary_table(result)


def test_another_score_is_not_called_lwf():
    table = summary_table(result_of({"plain": [70], "lwf": [60]}, stopped=True, confidence_scorer="interference"))
    assert "forgetting by interference − plain" in table.splitlines()[0]
    assert "forgetting by interference, seed 0: the guard stopped" in table
    assert "LWF" not in table


def test_one_seed_has_no_spread_and_no_interval():
    table = summary_table(result_of({"plain": [70], "lwf": [60]}))
    assert "−10.0" in table
    assert "±" not in table.splitlines()[2]
    assert "[" not in table.splitlines()[2]
    assert "one seed, which shows no spread" in table


def test_a_stop_of_the_guard_is_reported():
    table = summary_table(result_of({"plain": [70], "lwf": [60]}, stopped=True))
    assert "the guard stopped unlearning at learning update 7: it rose" in table


def test_bits_per_byte_are_told_where_no_answer_was_right():
    table = summary_table(result_of({"plain": [0, 0], "lwf": [0, 0]}))
    assert "sums: no answer was right in any arm; bits per byte of the given answers: plain 1.250, LWF 1.250" in table
    assert "no answer was right" not in summary_table(result_of({"plain": [0, 0], "lwf": [0, 1]}))
