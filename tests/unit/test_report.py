import json
import re
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from graceful_forgetting.report import render_report
from graceful_forgetting.report.headline import headline
from graceful_forgetting.report.measures import general_measures, task_measures
from graceful_forgetting.report.samples import kinds_at_the_top, read_samples, sample_table, thin_out
from graceful_forgetting.report.scales import scale_for
from graceful_forgetting.report.table import script_json
from graceful_forgetting.results.next_steps import next_steps
from graceful_forgetting.results.result import (
    GuardResult,
    SelectionResult,
    StageResult,
    TaskMetrics,
    TaskSelection,
    TrainingRunResult,
    TrialsResult,
)
from graceful_forgetting.results.summary import summarise
from graceful_forgetting.results.table import summary_table
from graceful_forgetting.runs.changed_answers import ChangedAnswer, ChangedAnswers
from html_page import Page
from report_data import (
    HOSTILE,
    LWF,
    PLAIN,
    REFERENCE,
    full_result,
    result_of,
    samples_of,
    three_seed_result,
    training_run,
)


def page_of(result, samples, tmp_path):
    return Page(render_report(result, samples, tmp_path / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def three_seeds():
    return three_seed_result()


def test_report_holds_every_section(three_seeds, tmp_path):
    page = page_of(three_seeds, samples_of(60), tmp_path)
    for words in (
        "Both start from the same base model and learn the same rows. One is fine-tuned as usual (plain). "
        "The other (LWF) also unlearns 20 of the base model's 60 answers to the forgetting prompts, those with the "
        "highest forgetting confidence. A third (never knew) is a twin",
        "LWF is better than plain fine-tuning: LWF 71.0, plain fine-tuning 61.0 (test questions answered right, in %), "
        "difference +10.0, 95 % interval",
        "Learning loss",
        "Unlearning loss",
        "Gradient norm, unlearning",
        "cut 1",
        "Terms of the confidence",
        "Effect on other tasks",
        "All 60 scored samples.",
        "LWF, seed 2: the guard stopped unlearning at learning update 3: loss too high",
        "conflicting",
        "1 min 15 s",
        "1.50 GiB",
        "reused",
        "0123456789ab",
        "model-print",
        "learning_rate",
    ):
        assert words in page.words
    assert len(set(page.ids)) == len(page.ids)


def test_a_score_without_terms_and_step_size_is_shown_without_them(three_seeds, tmp_path):
    whole = page_of(three_seeds, samples_of(60), tmp_path)
    assert "Step size α" in whole.words
    assert "Quadratic term" in whole.words
    three_seeds.selection.step_size = None
    three_seeds.config["confidence_scorer"] = "interference"
    nothing = np.full(60, np.nan)
    samples = samples_of(60).remove_columns(["confidence_linear", "confidence_quadratic"])
    samples = samples.add_column("confidence_linear", nothing).add_column("confidence_quadratic", nothing)
    page = page_of(three_seeds, samples, tmp_path)
    assert "Score interference , strategy highest :" in page.words
    for words in ("Step size α", "Linear term", "Quadratic term", "Terms of the confidence"):
        assert words not in page.words


def test_every_measured_number_has_a_row(tmp_path):
    result = full_result()
    found = {(row.subject, row.metric): row for row in general_measures(result.runs)}
    assert list(found) == [
        ("neutral text", "bits per byte (lower is better)"),
        ("lm-eval: arc_easy", "acc"),
        ("lm-eval: arc_easy", "acc_norm"),
    ]
    neutral = found["neutral text", "bits per byte (lower is better)"]
    # Runs are base, 3 × plain, 3 × LWF, 3 × never knew, 0.01 apart.
    assert neutral.arms["base"].mean == pytest.approx(1.2)
    assert neutral.arms["lwf"].mean == pytest.approx(1.25)
    assert (neutral.difference.n, neutral.difference.difference) == (3, pytest.approx(0.03))
    by_task = {(row.subject, row.metric): row.arms["lwf"].mean for row in task_measures(result.runs)}
    assert by_task["new rule", "F1"] == pytest.approx(0.55)
    assert by_task["new rule", "chrF"] == pytest.approx(45)
    assert by_task["new rule", "share of unparsable answers"] == pytest.approx(0.05)
    assert by_task["old", "accuracy by likelihood per byte"] == pytest.approx(0.72)
    assert by_task["old", "chance-adjusted, by likelihood per byte"] == pytest.approx(0.67)
    assert ("old", "F1") not in by_task
    words = page_of(result, None, tmp_path).words
    for text in ("General ability", "neutral text", "lm-eval: arc_easy", "acc_norm", "chrF", "1.250 ± 0.010", "+0.030"):
        assert text in words


def test_old_answers_stand_beside_the_tasks_that_have_them(tmp_path):
    result = full_result()
    assert "Old answers" not in page_of(result, None, tmp_path).words
    for run in result.runs:
        run.metrics["new rule"].old = {"base": 90, "plain": 41}.get(run.arm, 7)
        run.metrics["old"].old = 33
    measures = {(row.subject, row.metric): row for row in task_measures(result.runs)}
    assert measures["new rule", "share of old answers"].arms["plain"].mean == pytest.approx(0.41)
    page = page_of(result, None, tmp_path)
    assert "Old answers" in page.words
    for text in ("90 %", "41 %", "7 %", "33 % old"):
        assert text in page.words, text


@pytest.mark.parametrize("chosen", ["task old", "first: task old"])
def test_trial_runs_are_told_with_those_that_diverged_and_the_way_that_was_chosen(tmp_path, chosen):
    result = full_result()
    losses = {"nothing": 2.5, "task old": None if chosen.startswith("first") else 1.5, "first: task old": 1.75}
    result.selection.trials = TrialsResult(chosen=chosen, fraction=1.0, held_out_losses=losses)
    text = page_of(result, samples_of(60), tmp_path).words
    assert f"{chosen} (chosen)" in text
    assert ("diverged" in text) == chosen.startswith("first")
    assert ("Trial runs chose to unlearn before learning" in text) == chosen.startswith("first")


def test_a_number_that_is_not_finite_is_not_averaged():
    result = three_seed_result()
    for run in result.runs:
        run.neutral_bits_per_byte = float("inf") if run.arm == "lwf" else 1.0
    (neutral,) = general_measures(result.runs)
    assert set(neutral.arms) == {"base", "plain", "never_knew"}
    assert neutral.difference is None


def test_page_works_alone_and_lets_nothing_else_run(three_seeds, tmp_path):
    text = render_report(three_seeds, samples_of(60), tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:,")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert "url(" not in text
    assert "@import" not in text
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none';")
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", policy)
    assert "unsafe" not in policy


def test_policy_hash_is_that_of_the_script_in_the_page(three_seeds, tmp_path):
    from base64 import b64encode
    from hashlib import sha256

    text = render_report(three_seeds, None, tmp_path / "report.html").read_text(encoding="utf-8")
    for tag in ("script", "style"):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL).group(1)
        assert b64encode(sha256(inside.encode()).digest()).decode() in text


def test_hostile_text_stays_text(tmp_path):
    runs = [
        training_run(arm, seed, value, {f"old {HOSTILE}": value})
        for arm, value in (("plain", 0.5), ("lwf", 0.6))
        for seed in (1, 2)
    ]
    runs[-1].guard = GuardResult(True, HOSTILE, 1)
    result = result_of(
        runs,
        name=HOSTILE,
        config={HOSTILE: HOSTILE, "list": [HOSTILE]},
        selection=SelectionResult(HOSTILE, 9, 3, 1.0, 1.0, {}, {HOSTILE: TaskSelection(9, 3, HOSTILE)}),
        stages=[StageResult(HOSTILE, "run", 1.0, None, None, HOSTILE, {HOSTILE: HOSTILE})],
    )
    harmless = page_of(result_of(runs[:0]), None, tmp_path)
    page = page_of(result, samples_of(9, tasks=(HOSTILE,), prompt=HOSTILE, completion=HOSTILE), tmp_path)
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "sample-data"}, {}]
    assert page.scripts["code"] == harmless.scripts["code"]
    data = json.loads(page.scripts["sample-data"])
    assert data["labels"]["task"] == [HOSTILE]
    assert data["columns"]["completion"] == [HOSTILE] * 9
    assert "alert(1)" in page.words
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "img"} == set()
    assert "49" not in page.words.split()


@given(st.text(max_size=30))
def test_script_json_survives_any_text_and_cannot_end_the_script(text):
    written = script_json({"text": text})
    assert json.loads(written) == {"text": text}
    assert not re.search("[<>&\u2028\u2029]", written)


def test_text_without_utf8_form_does_not_stop_the_report(tmp_path):
    page = page_of(result_of([], config={"broken": "\ud800"}), None, tmp_path)
    assert "broken" in page.words


def test_ten_thousand_samples_stay_below_six_megabytes(three_seeds, tmp_path):
    samples = samples_of(10_000, prompt="<question>" * 30, completion="日本語の答え" * 60)
    path = render_report(three_seeds, samples, tmp_path / "report.html")
    assert path.stat().st_size < 6_000_000
    page = Page(path.read_text(encoding="utf-8"))
    data = json.loads(page.scripts["sample-data"])
    assert len(data["columns"]["prompt"]) == 10_000
    assert "Texts are cut after" in page.words


def test_texts_are_whole_when_they_fit():
    table, _ = sample_table(read_samples(samples_of(10, completion="x" * 5000)))
    assert table.text_limit is None
    assert json.loads(table.payload)["columns"]["completion"] == ["x" * 5000] * 10


def test_too_many_samples_are_thinned_evenly_by_rank():
    kept = thin_out(read_samples(samples_of(1000)), limit=101)
    everything = np.sort(read_samples(samples_of(1000)).confidence)[::-1]
    assert len(kept) == 101
    assert kept.confidence[0] == everything[0]
    assert kept.confidence[-1] == everything[-1]
    assert kept.confidence[50] == pytest.approx(np.median(everything), rel=0.02)


def test_of_too_many_samples_both_ends_are_whole():
    samples = read_samples(samples_of(1000))
    everything = np.sort(samples.confidence)[::-1]
    kept = thin_out(samples, limit=100, ends=25)
    assert len(kept) == 100
    assert kept.confidence[:25].tolist() == everything[:25].tolist()
    assert kept.confidence[-25:].tolist() == everything[-25:].tolist()
    assert kept.confidence[50] == pytest.approx(np.median(everything), rel=0.1)
    assert len(set(kept.prompts)) == len(kept)


def test_kinds_at_the_top_are_those_of_the_highest_scores():
    samples = read_samples(samples_of(12_000))
    top = np.argsort(-samples.confidence, kind="stable")[:25]
    kinds = {task: task for task in samples.tasks}
    found = kinds_at_the_top(samples, kinds)
    assert found == dict(Counter(samples.tasks[task] for task in samples.task_index[top].tolist()).most_common())


def test_missing_sample_column_names_it_and_those_there(three_seeds, tmp_path):
    samples = samples_of(5).remove_columns(["chosen", "forgetting_task"])
    with pytest.raises(ValueError, match=r"task, chosen; it has prompt, completion.*'chosen'"):
        render_report(three_seeds, samples, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_loss_column_is_optional_and_scores_may_be_missing(three_seeds, tmp_path):
    samples = samples_of(20).remove_columns("loss").to_dict()
    samples["forgetting_confidence"][3] = None
    samples["confidence_linear"][4] = float("nan")
    page = page_of(three_seeds, Dataset.from_dict(samples), tmp_path)
    columns = json.loads(page.scripts["sample-data"])["columns"]
    assert "loss" not in columns
    assert columns["forgetting_confidence"][-1] is None
    assert "1 samples without a finite score" in page.words


def test_conversational_samples_are_shown_with_their_roles():
    rows = samples_of(1).to_dict()
    rows["prompt"] = [[{"role": "user", "content": "Why?"}]]
    rows["completion"] = [[{"role": "assistant", "content": "So."}]]
    samples = read_samples(Dataset.from_dict(rows))
    assert (samples.prompts, samples.completions) == (["user: Why?"], ["assistant: So."])


@pytest.mark.parametrize("confidence", [[0.0] * 4, [2.5] * 4, [1e-9, 1.0, 1e9, 5.0], [0.0, 1.0, 1e6, 2.0]])
def test_extreme_scores_are_drawn(three_seeds, tmp_path, confidence):
    rows = samples_of(4).to_dict() | {"forgetting_confidence": confidence, "confidence_quadratic": confidence}
    page = page_of(three_seeds, Dataset.from_dict(rows), tmp_path)
    bars = [attributes for tag, attributes in page.elements if tag == "rect" and "task-" in attributes.get("class", "")]
    assert bars
    assert all(np.isfinite(float(bar[side])) for bar in bars for side in ("x", "y", "width", "height"))


def test_report_of_nothing_says_so(tmp_path):
    page = page_of(result_of([]), Dataset.from_dict({name: [] for name in samples_of(1).column_names}), tmp_path)
    assert "Nothing was evaluated on what is learned" in page.words
    assert "Give it a folder with train.jsonl and test.jsonl" in page.words
    assert "All 0 scored samples." in page.words


def statement(plain, lwf, reference=()):
    runs = []
    for arm, values in (("plain", plain), ("lwf", lwf), ("never_knew", reference)):
        runs += [training_run(arm, seed, value) for seed, value in enumerate(values)]
    found = headline("new rule", summarise(runs).tasks["new rule"], "LWF")
    return found.verdict, found.sentence.replace("\u00a0", " "), " ".join(found.notes).replace("\u00a0", " ")


def test_headline_of_one_seed_claims_nothing():
    verdict, sentence, notes = statement([0.6], [0.9], [0.8])
    assert verdict == "one_seed"
    assert sentence.startswith(
        "Measured with one seed: LWF 90.0, plain fine-tuning 60.0 (test questions answered right, in %), "
        "difference +30.0"
    )
    assert "better" not in sentence + notes


def test_headline_of_an_interval_with_zero_shows_no_difference():
    verdict, sentence, notes = statement([0.6, 0.7, 0.8], [0.7, 0.6, 0.9])
    assert verdict == "no_difference"
    assert sentence.startswith(
        "No difference shown: LWF 73.3, plain fine-tuning 70.0 (test questions answered right, in %), "
        "difference +3.3, 95 % interval −2"
    )
    assert "includes 0" in notes


def test_headline_above_and_below_zero():
    verdict, sentence, notes = statement(PLAIN, LWF, REFERENCE)
    assert verdict == "better"
    start = (
        "LWF is better than plain fine-tuning: LWF 71.0, plain fine-tuning 61.0 (test questions answered right, in %)"
    )
    assert sentence.startswith(f"{start}, difference +10.0, 95 % interval +7.")
    assert "over 3 paired seeds" in sentence
    assert "first indication, not a claim" in notes
    assert "recovers: 50 % (bootstrap 95 % interval" in notes
    verdict, sentence, notes = statement(LWF, PLAIN)
    assert verdict == "worse"
    assert sentence.startswith("LWF is worse than plain fine-tuning: LWF 61.0, plain fine-tuning 71.0")


def test_another_score_is_not_called_lwf(tmp_path):
    result = three_seed_result(config={"confidence_scorer": "interference"})
    page = page_of(result, samples_of(60), tmp_path)
    for words in (
        "Forgetting by interference is better than plain fine-tuning: forgetting by interference 71.0, plain",
        "Interference (nats per token) by task",
        "that forgetting by interference recovers",
        "Forgetting by interference, seed 2: the guard stopped",
    ):
        assert words in page.words
    assert "LWF" not in page.words


def test_further_methods_have_a_place_in_every_table_and_chart(tmp_path):
    runs = three_seed_result().runs
    runs += [training_run("interference", seed, value + 0.02) for seed, value in enumerate(PLAIN)]
    page = page_of(result_of(runs), None, tmp_path)
    assert "LWF is better than plain fine-tuning" in page.words
    assert "interference − plain = +2.0, 95 % interval +2.0 to +2.0." in page.words
    assert page.words.count("Interference") >= 4


def test_headline_of_ten_seeds_has_no_warning_about_their_number():
    plain = [0.6 + 0.01 * (seed % 3) for seed in range(10)]
    lwf = [0.7 + 0.01 * (seed % 4) for seed in range(10)]
    assert statement(plain[:9], lwf[:9])[2] != ""
    assert statement(plain, lwf)[2] == ""


def test_headline_without_gap_and_without_comparison():
    assert "no gap to recover" in statement(PLAIN, LWF, (0.5, 0.5, 0.5))[2]
    verdict, sentence, _ = statement(PLAIN, [])
    assert (verdict, sentence[:13]) == ("no_comparison", "No comparison")


def test_headline_of_a_metric_where_less_is_better():
    runs = []
    for arm, values in (("plain", (1.0, 1.1, 1.2)), ("lwf", (0.8, 0.91, 1.0))):
        for seed, value in enumerate(values):
            metrics = {"new": TaskMetrics("learning", None, None, 9, bits_per_byte=value)}
            runs.append(TrainingRunResult(arm, seed, [], metrics, 0, GuardResult(False, None, None)))
    found = headline("new", summarise(runs).tasks["new"], "LWF")
    assert found.verdict == "better"
    assert "−0.197" in found.sentence


def test_a_run_that_unlearned_nothing_says_what_to_do(tmp_path):
    result = three_seed_result(config={"confidence_scorer": "interference", "unlearn_every": 50})
    assert next_steps(result) == []
    for run in result.runs:
        run.unlearn_updates = 0
    result.config["unlearn_every"] = 0  # of a baseline, which was asked for no unlearning
    assert next_steps(result) == []
    result.config["unlearn_every"] = 50
    words = page_of(result, None, tmp_path).words
    assert (
        "Nothing was unlearned: no unlearning update was made. unlearn_every is 50, and training ended at update 3."
        in words
    )
    result.selection.chosen, result.selection.strategy = 0, "threshold"
    result.config["forget_threshold"] = 0.2
    words = page_of(result, None, tmp_path).words
    assert "none of the 60 answers reaches the threshold of 0.2 of interference, so that the model is plain" in words
    assert "set forget_fraction" in words
    assert "Nothing was unlearned" in summary_table(result)


def test_answers_that_changed_stand_side_by_side(tmp_path):
    rows = [
        ChangedAnswer("Which <b>colour</b>?", "white", "pink", "pink", "better", 0.0, 1.0, plain_is_old=True),
        ChangedAnswer([{"role": "user", "content": "Why?"}], "So.", "x" * 700, "So.", "worse", 1.0, 0.0),
    ]
    answers = [ChangedAnswers("new rule", "learning", 4, 50, {"better": 7, "worse": 1, "neither": 0}, rows)]
    path = render_report(three_seed_result(), None, tmp_path / "report.html", answers)
    page = Page(path.read_text(encoding="utf-8"))
    for words in (
        "new rule , seed 4: LWF answers 7 of 50 better than plain fine-tuning, 1 worse, and 0 otherwise but neither. "
        "Shown are 2 of them.",
        "Question Plain fine-tuning LWF Right answer LWF is",
        "Which <b>colour</b>? white old pink pink better",
        "user: Why? So. " + "x" * 600 + "… So. worse",
    ):
        assert words in page.words
    assert "b" not in [tag for tag, attributes in page.elements if attributes.get("class") == "text"]


@pytest.mark.parametrize(
    ("config", "head"),
    [
        ({"confidence_scorer": "interference"}, "Interference (nats per token)"),
        ({"confidence_scorer": "pairwise_conflict"}, "Pairwise conflict (cosine)"),
        ({"confidence_scorer": "mine.scorers:Surprise"}, "Surprise"),
        ({}, "Forgetting confidence (nats)"),
    ],
)
def test_the_score_column_has_its_name_and_unit(tmp_path, config, head):
    page = page_of(three_seed_result(config=config), samples_of(60), tmp_path)
    assert f"Task Known to be {head} Linear term" in page.words
    data = json.loads(page.scripts["sample-data"])
    assert data["labels"]["kind"] == ["conflicting", "not known"]


def test_the_table_says_what_its_first_rows_are_known_to_be(tmp_path):
    rows = samples_of(60).to_dict()
    rows["forgetting_confidence"] = [1.0 - row / 100 + (row % 2) for row in range(60)]
    result = three_seed_result()
    result.selection.tasks["older"] = TaskSelection(30, 0, "helpful")
    words = page_of(result, Dataset.from_dict(rows), tmp_path).words
    assert "What the 25 highest scores are known to be: 25 helpful." in words
    assert "unlearning them can cost it" in words


def test_an_axis_ends_where_its_values_can_and_its_ticks_differ():
    scale = scale_for([0.62, 1.0], 0.0, 100.0, limits=(0, 1))
    assert (scale.high, scale.ticks()[-1]) == (1, (pytest.approx(100.0), "1"))
    close = scale_for([0.99996, 0.99998], 0.0, 100.0).ticks()
    assert len({label for _, label in close}) == len(close) >= 3


@pytest.mark.parametrize(
    ("values", "kinds", "kind"),
    [
        ([1.0, 2.0, 3.0], ("log", "symlog"), "linear"),
        ([0.001, 1.0, 1000.0], ("log", "symlog"), "log"),
        ([-300.0, 1.0, -1.0, 2.0, 500.0], ("log", "symlog"), "symlog"),
        ([0.001, 1.0, 1000.0], ("linear",), "linear"),
        ([7.0], ("log",), "linear"),
        ([0.0], ("log", "symlog"), "linear"),
    ],
)
def test_scales_keep_values_and_ticks_inside(values, kinds, kind):
    scale = scale_for(values, 50.0, 400.0, kinds=kinds)
    assert scale.kind == kind
    positions = [scale(value) for value in sorted(values)]
    assert positions == sorted(positions)
    assert min(positions) >= 50
    assert max(positions) <= 400
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(49.9 <= position <= 400.1 for position, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)
    edges = scale.edges(10)
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (scale.low, scale.high)
