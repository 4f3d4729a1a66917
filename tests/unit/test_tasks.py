"""Tasks: formats, answer parsing, metrics, the vendored samples and the user's own data."""

import json
import sys
from pathlib import Path

import pytest

from graceful_forgetting.tasks import (
    TASKS,
    AnswerScores,
    available_splits,
    load_local,
    load_task,
    local_task,
    require_metric,
    resolve_task,
    score_answers,
    task_source,
)
from graceful_forgetting.tasks.catalogue import LETTERED, SAMPLES
from graceful_forgetting.tasks.metrics import answer_tokens, token_f1

GSM8K, DENTAL = TASKS["gsm8k"], TASKS["dental"]

GSM8K_ROW = {
    "question": "Tom has 3 boxes of 360 pens. How many pens? ",
    "answer": "3 x 360 = <<3*360=1080>>1080 pens.\n#### 1,080",
}
DENTAL_ROW = {
    "id": "row-1",
    "question": "White patch,\twhich wipes\noff:",
    "opa": "Lichen planus",
    "opb": "Candidiasis",
    "opc": "Lupus",
    "opd": "Tuberculosis",
    "cop": 1,
    "subject_name": "Dental",
}


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_gsm8k_row_becomes_prompt_completion_and_number() -> None:
    assert GSM8K.format_row(GSM8K_ROW) == {
        "prompt": "Question: Tom has 3 boxes of 360 pens. How many pens?\nAnswer:",
        "completion": " 3 x 360 = 1080 pens.\n#### 1,080",
        "answer": "1080",
    }


def test_dental_row_becomes_options_and_letter() -> None:
    assert DENTAL.format_row(DENTAL_ROW) == {
        "prompt": (
            "Question: White patch, which wipes off:\nA. Lichen planus\nB. Candidiasis\nC. Lupus\n"
            "D. Tuberculosis\nAnswer:"
        ),
        "completion": " B. Candidiasis",
        "answer": "B",
        "choices": [" A. Lichen planus", " B. Candidiasis", " C. Lupus", " D. Tuberculosis"],
    }


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("9 + 9 = 18\n#### 18", "18"),
        ("#### $1,080.00", "1080"),
        ("#### -5", "-5"),
        ("#### 0.50", "0.5"),
        ("#### .5 litres", "0.5"),
        ("####7%", "7"),
        ("#### 3\n#### 4", "4"),
        ("so 5-3 is 2", "2"),
        ("we take 5-3", "3"),
        ("a loss of -3", "-3"),
        ("costs -$3", "-3"),
        ("the counts are 1,2,3", "3"),
        ("in total 1,234,567 grains.", "1234567"),
        ("12 apples ####", "12"),
        ("100", "100"),
        ("-0", "0"),
        ("#### 18\nQuestion: and 7 more?\nAnswer: 25\n#### 25", "18"),
        ("#### −5", "-5"),
        ("#### –5", "-5"),
        ("#### －５", "-5"),
        ("#### −$1,080", "-1080"),
        ("#### - 5", "-5"),
        ("we take 5 − 3", "3"),
        ("we take 5−3", "3"),
        ("#### 12345678901234567890123456789012", "12345678901234567890123456789012"),
        ("#### 0.12345678901234567890123456789012", "0.12345678901234567890123456789012"),
        ("#### " + "7" * 5000, "7" * 5000),
        ("#### １，０８０", "1080"),
        ("#### ٣٤", "34"),
        ("#### 1'080", "1080"),
        ("#### 1\u202f080", "1080"),
        ("#### 1_000", "1000"),
        ("it is $1_000_000.50", "1000000.5"),
        ("column_12_345", "345"),
        ("12_34", "34"),
        ("#### €20", "20"),
        ("#### 1/2", "0.5"),
        ("#### -2/3", "-2/3"),
        ("#### 6/3", "2"),
        ("on 1/2/2024", "2024"),
        ("#### 5/0", "5"),
        ("#### 5/day", "5"),
        ("#### 1e5", "100000"),
        ("#### 50 %", "50"),
        ("#### ½", "0.5"),
        ("#### -½ of it", "-0.5"),
        ("it takes 1½ hours", "1.5"),
        ("it takes 2 ⅓ hours", "7/3"),
        ("#### 1 1/2", "1.5"),
        ("#### -10 3/4 m", "-10.75"),
        ("5 - 1/2", "0.5"),
        ("in 5 3/2", "1.5"),
        ("on 2 1/2/2024", "2024"),
        ("it is 2p/5", "5"),
        ("of size5", "5"),
        ("#### 1 234 567 grains", "1234567"),
        ("#### 1,23,456", "123456"),
        ("-0.00", "0"),
        ("no idea", None),
        ("", None),
    ],
)
def test_gsm8k_parses_the_number(text: str, answer: str | None) -> None:
    assert GSM8K.parse_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" B", "B"),
        (" B. Candidiasis", "B"),
        ("\n(C) Lupus", "C"),
        ("**D**", "D"),
        ("A\nQuestion: next", "A"),
        ("The answer is C.", "C"),
        ("Answer: D", "D"),
        ("the correct answer is option (A)", "A"),
        (" A tooth with caries", None),
        ("Candidiasis", None),
        ("the answer is a tooth", None),
        (" E. None", None),
        ("Answer A is wrong; the answer is C", "C"),
        ("(A) is wrong, the answer is C", "C"),
        ("A. is wrong, it is B", "B"),
        ("A is not right; it's (B).", "B"),
        ("Answer: A. is wrong, it is B", "B"),
        ("A) is incorrect. B is correct.", "B"),
        ("A. is wrong", "A"),
        ("A. is not a fruit, it is a berry", "A"),
        ("C. A is wrong, it is B that you mean", "C"),
        ("A. is wrong, it is A tooth", "A"),
        ("The answer is not A; the answer is C", "C"),
        ("(A) is correct", "A"),
        ("Answer: A tooth", None),
        ("Answer: A", "A"),
        ("Answer: A.", "A"),
        ("The answer is A because caries spreads", "A"),
        ("The answer is C because caries spreads", "C"),
        ("Answer: B carbon dioxide", "B"),
        ("The answer is **C**", "C"),
        ("**Answer: C**", "C"),
        ("**Answer:** C", "C"),
        ("(C)", "C"),
        ("C.", "C"),
        ("（Ｃ）", "C"),
        ("Option C", "C"),
        ("C - Lupus", "C"),
        ("A. B vitamins", "A"),
        ("A or B", None),
        ("A, B", None),
        ("(A) or (B)", None),
        ("The answer is A or B", None),
        ("Answer: B and C", None),
        ("I choose answer C.", "C"),
        ("The answer is $\\boxed{C}$", "C"),
        ("The answer is \\(\\text{B}\\)", "B"),
        ("`C`", "C"),
        ("C is correct", "C"),
        ("C is the answer", "C"),
        ("The answer: A (tooth)", "A"),
        ("Answer: B is wrong", None),
        ("", None),
    ],
)
def test_dental_parses_the_letter(text: str, answer: str | None) -> None:
    assert DENTAL.parse_answer(text) == answer


SAMPLE_SIZES = {
    **dict.fromkeys(("gsm8k", "dental", "psychol", "arc_easy", "openbookqa"), (300, 100)),
    **dict.fromkeys(("boolq_closed_book", "tatoeba_de_en"), (300, 100)),
    **dict.fromkeys(("xquad:en", "xquad:de", "xquad:zh"), (100, 50)),
    "qasc": (200, 100),
}
GENERATED = ("gsm8k", "tatoeba_de_en", "xquad:en", "xquad:de", "xquad:zh")


@pytest.mark.parametrize("name", sorted(SAMPLE_SIZES))
def test_every_sample_row_loads_and_its_own_completion_scores(name: str) -> None:
    for split, size in zip(("train", "test"), SAMPLE_SIZES[name], strict=True):
        dataset = load_task(name, split, source="sample")
        assert dataset.num_rows == size
        choices = [] if name in GENERATED else ["choices"]
        assert dataset.column_names == ["prompt", "completion", "answer", *choices, "row"]
        assert len(set(dataset["row"])) == size
        if name == "tatoeba_de_en":
            pytest.importorskip("sacrebleu", reason="chrF needs the extra eval")
        scores = score_answers(TASKS[name], list(dataset["completion"]), list(dataset["answer"]))
        assert scores.value == pytest.approx(100 if name == "tatoeba_de_en" else 1)
        assert scores.unparsable == 0


def test_vendored_rows_stay_small_and_every_folder_is_attributed() -> None:
    files = list(SAMPLES.rglob("*.jsonl"))
    assert sum(file.stat().st_size for file in files) < 2_000_000
    lines = (SAMPLES / "ATTRIBUTION.md").read_text(encoding="utf-8").splitlines()
    attributed = {name for line in lines if line.startswith("## ") for name in line[3:].split(", ")}
    assert {str(file.parent.relative_to(SAMPLES)) for file in files} <= attributed
    assert {str(file.parent.relative_to(SAMPLES)) for file in files} == {TASKS[name].folder for name in SAMPLE_SIZES}


@pytest.mark.parametrize("name", sorted(SAMPLE_SIZES))
def test_sample_splits_share_no_prompt(name: str) -> None:
    train, test = (set(load_task(name, split, source="sample")["prompt"]) for split in ("train", "test"))
    assert not train & test


def test_dental_sample_has_only_dental_rows_with_hub_ids() -> None:
    row = load_task("dental", "train", source="sample")[0]
    assert row["row"] == "f184a533-98b4-43ad-b1f5-70edc6704d9e"
    assert row["answer"] in "ABCD"
    assert row["completion"] in row["choices"]


def test_limit_draws_the_same_rows_again_and_smaller_draws_are_nested() -> None:
    ten = load_task("gsm8k", source="sample", limit=10, seed=1)["row"]
    assert list(ten) == list(load_task("gsm8k", source="sample", limit=10, seed=1)["row"])
    assert set(ten) < set(load_task("gsm8k", source="sample", limit=20, seed=1)["row"])
    assert set(ten) != set(load_task("gsm8k", source="sample", limit=10, seed=2)["row"])
    assert list(ten) == sorted(ten, key=int)


def test_limit_above_the_number_of_rows_takes_them_all() -> None:
    assert load_task("dental", "test", source="sample", limit=1000).num_rows == 100


def test_row_filter_keeps_the_subject(tmp_path: Path) -> None:
    other = {**DENTAL_ROW, "id": "row-2", "subject_name": "Surgery"}
    write_rows(tmp_path / "train.jsonl", [other, DENTAL_ROW])
    assert list(load_task("dental", source=tmp_path)["row"]) == ["row-1"]


def test_known_task_from_a_folder_and_from_one_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [GSM8K_ROW])
    single = write_rows(tmp_path / "test.jsonl", [{**GSM8K_ROW, "answer": "#### 2"}])
    assert list(load_task("gsm8k", "train", source=tmp_path)["answer"]) == ["1080"]
    assert list(load_task("gsm8k", "test", source=str(single))["answer"]) == ["2"]
    assert available_splits("gsm8k", tmp_path) == ("train", "test")
    assert available_splits("gsm8k", single) == ("test",)


def test_available_splits_of_hub_and_sample() -> None:
    assert available_splits("dental") == ("train", "test")
    assert available_splits("dental", "sample") == ("train", "test")


def test_hub_source_asks_for_the_labelled_split(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    asked: list[tuple] = []

    def fake_load_dataset(path: str, name: str | None, *, split: str) -> Dataset:
        asked.append((path, name, split))
        surgery = {**DENTAL_ROW, "id": "row-0", "subject_name": "Surgery"}
        return Dataset.from_list([GSM8K_ROW] if name == "main" else [surgery, DENTAL_ROW])

    monkeypatch.setattr("graceful_forgetting.tasks.loading.load_dataset", fake_load_dataset)
    assert list(load_task("gsm8k", "test")["row"]) == ["0"]
    assert list(load_task("dental", "test")["row"]) == ["row-1"]
    assert asked == [
        ("openai/gsm8k", "main", "test"),
        ("openlifescienceai/medmcqa", None, "validation"),
    ]


def test_local_prompt_and_completion(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "capitals.jsonl", [{"prompt": "France?", "completion": " Paris\n", "tag": 1}])
    task = resolve_task(path)
    assert (task.name, task.metric) == ("capitals", "exact_match")
    assert load_task(task)[0] == {
        "prompt": "France?",
        "completion": " Paris\n",
        "answer": "Paris",
        "row": "0",
    }
    assert task.parse_answer("  Paris ") == "Paris"
    assert task.parse_answer(" \n") is None


def test_local_prompts_only(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "France?"}, {"prompt": "Peru?", "completion": None}])
    dataset = load_local(path, require_completion=False)
    assert dataset.column_names == ["prompt", "row"]
    assert list(dataset["prompt"]) == ["France?", "Peru?"]


def test_local_conversations_and_messages_agree(tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "France?"}, {"role": "assistant", "content": "Paris "}
    pair = write_rows(tmp_path / "pair.jsonl", [{"prompt": [user], "completion": [assistant]}])
    messages = write_rows(tmp_path / "messages.jsonl", [{"messages": [user, assistant]}])
    expected = {"prompt": [user], "completion": [assistant], "answer": "Paris", "row": "0"}
    assert load_local(pair)[0] == expected
    assert load_local(messages)[0] == expected


def test_messages_that_end_with_the_user_are_prompts(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "France?"}]
    path = write_rows(tmp_path / "m.jsonl", [{"messages": turns}])
    assert load_local(path, require_completion=False)[0] == {"prompt": turns, "row": "0"}


def test_local_names_and_splits(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c"}
    train = write_rows(tmp_path / "capitals" / "train.jsonl", [row])
    assert local_task(train).name == "capitals"
    assert local_task(tmp_path / "capitals").name == "capitals"
    assert available_splits(tmp_path / "capitals") == ("train",)


def test_known_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "gsm8k" / "train.jsonl", [{"prompt": "p", "completion": "c"}])
    monkeypatch.chdir(tmp_path)
    assert resolve_task("gsm8k") is GSM8K
    assert load_task("./gsm8k")["prompt"][0] == "p"


def test_blank_lines_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "p", "completion": "c"}\n\n{"prompt": "q", "completion": "d"}\n')
    assert list(load_local(path)["prompt"]) == ["p", "q"]


def test_score_counts_right_wrong_and_unparsable() -> None:
    scores = score_answers(DENTAL, [" A. x", " B. y", "no idea"], ["A", "C", "D"])
    assert scores == AnswerScores("accuracy", 1 / 3, [1.0, 0.0, 0.0], [True, False, False], unparsable=1)
    assert scores.num_correct == 1


# Presets: rows of the hub's form, written here ------------------------------------------------------------------------

KEYED = {"text": ["sand", "local weather", "forests"], "label": ["1", "2", "3"]}


def test_keyed_choices_become_letters_whatever_their_labels() -> None:
    row = {"id": "x", "question": "Climate is\tdescribed as?", "choices": KEYED, "answerKey": "2"}
    expected = {
        "prompt": "Question: Climate is described as?\nA. sand\nB. local weather\nC. forests\nAnswer:",
        "completion": " B. local weather",
        "answer": "B",
        "choices": [" A. sand", " B. local weather", " C. forests"],
    }
    assert TASKS["arc_easy"].format_row(row) == expected
    assert TASKS["qasc"].format_row(row) == expected
    assert TASKS["openbookqa"].format_row({**row, "question_stem": row["question"]}) == expected


def test_mmlu_and_psychol_rows() -> None:
    row = {"question": "Nearsightedness?", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 3}
    for task in (resolve_task("mmlu:anatomy"), TASKS["psychol"]):
        formatted = task.format_row(row)
        assert formatted["prompt"].endswith("D. d\nAnswer:")
        assert (formatted["completion"], formatted["answer"]) == (" D. d", "D")


def test_cloze_rows_leave_out_the_options_and_keep_their_order() -> None:
    row = {"id": "x", "question": "Climate is\tdescribed as?", "choices": KEYED, "answerKey": "2"}
    task = resolve_task("cloze:qasc")
    assert task.format_row(row) == {
        "prompt": "Question: Climate is described as?\nAnswer:",
        "completion": " local weather",
        "answer": "local weather",
        "choices": [" sand", " local weather", " forests"],
    }
    assert task.parse_answer(" local weather\nQuestion: next?") == "local weather"


@pytest.mark.parametrize("name", [task.name for task in LETTERED if (SAMPLES / task.folder).is_dir()])
def test_cloze_form_has_the_rows_of_its_task_in_the_same_order(name: str) -> None:
    lettered = load_task(name, "test", source="sample", limit=20, seed=3)
    cloze = load_task(f"cloze:{name}", "test", source="sample", limit=20, seed=3)
    assert cloze["row"][:] == lettered["row"][:]
    for plain, row in zip(lettered, cloze, strict=True):
        at = plain["choices"].index(plain["completion"])
        assert row["choices"].index(row["completion"]) == at
        assert plain["completion"] == f" {plain['answer']}.{row['completion']}"
        assert not any(choice.strip() in row["prompt"] for choice in plain["choices"])
    assert score_answers(resolve_task(f"cloze:{name}"), cloze["completion"][:], cloze["answer"][:]).value == 1


def test_cloze_form_of_subjects_and_of_own_paths(tmp_path: Path) -> None:
    task = resolve_task("cloze:mmlu:anatomy")
    assert (task.name, task.hub_configs, task.folder) == ("cloze:mmlu:anatomy", ("anatomy",), "mmlu/anatomy")
    path = write_rows(tmp_path / "rows.jsonl", [DENTAL_ROW])
    assert list(load_task(f"cloze:dental@{path}", source="hub")["answer"]) == [DENTAL_ROW["opb"]]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" very negative", "very negative"),
        ("Negative.", "negative"),
        ("a very positive one", "very positive"),
        ("bad\nneutral", None),
        ("positively", None),
    ],
)
def test_sst5_parses_the_grade(text: str, answer: str | None) -> None:
    assert TASKS["sst5"].parse_answer(text) == answer


def test_sst5_row() -> None:
    formatted = TASKS["sst5"].format_row({"text": " no movement . ", "label": 4, "label_text": "very positive"})
    assert formatted["prompt"] == "Review: no movement .\nSentiment:"
    assert formatted["completion"] == " very positive" == formatted["choices"][4]
    assert (formatted["answer"], len(formatted["choices"])) == ("very positive", 5)


@pytest.mark.parametrize(("text", "answer"), [(" Yes.", "yes"), ("false", "no"), ("yesterday", None), ("", None)])
def test_boolq_parses_yes_and_no(text: str, answer: str | None) -> None:
    assert TASKS["boolq_closed_book"].parse_answer(text) == answer


def test_boolq_row_is_a_closed_book() -> None:
    row = {"question": "is water wet", "answer": False, "passage": "Water is ..."}
    expected = {"prompt": "Question: is water wet?\nAnswer:", "completion": " no", "answer": "no"}
    assert TASKS["boolq_closed_book"].format_row(row) == {**expected, "choices": [" no", " yes"]}


def test_translation_reads_both_forms_of_the_hub() -> None:
    expected = {"prompt": "German: Tom ist da.\nEnglish:", "completion": " Tom is here.", "answer": "Tom is here."}
    task = TASKS["tatoeba_de_en"]
    assert task.format_row({"translation": {"de": "Tom ist da.", "en": "Tom is here."}}) == expected
    assert task.format_row({"english": "Tom is here.", "non_english": "Tom ist  da."}) == expected
    assert task.parse_answer(" Tom is here.\nGerman: next") == "Tom is here."


def test_xquad_row() -> None:
    row = {"id": "1", "context": "Berlin is\nbig.", "question": "What?", "answers": {"text": ["Berlin "]}}
    assert TASKS["xquad:de"].format_row(row) == {
        "prompt": "Context: Berlin is big.\nQuestion: What?\nAnswer:",
        "completion": " Berlin",
        "answer": "Berlin",
    }


def test_our_divisions_put_every_row_of_the_hub_on_one_side(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    questions = [{"question": f"q{i}", "choices": ["a", "b"], "answer": 0} for i in range(50)]
    asked = []

    def fake_load_dataset(path: str, name: str, *, split: str) -> Dataset:
        asked.append((name, split))
        return Dataset.from_list(questions[:30] if name == "high_school_psychology" else questions[20:])

    monkeypatch.setattr("graceful_forgetting.tasks.loading.load_dataset", fake_load_dataset)
    train, test = (load_task("psychol", split)["prompt"] for split in ("train", "test"))
    assert len(train) + len(test) == 60
    assert not set(train) & set(test)
    assert 3 <= len(set(test)) <= 17
    assert asked[:2] == [(f"{name}_psychology", "dev+validation+test") for name in ("high_school", "professional")]


def test_division_of_xquad_is_that_of_its_vendored_rows() -> None:
    for language in ("en", "de", "zh"):
        task = TASKS[f"xquad:{language}"]
        for split in ("train", "test"):
            for row in load_task(task, split, source="sample")["row"]:
                assert task.divide({"id": row}) == split


def test_division_of_psychol_is_that_of_its_vendored_rows() -> None:
    for split in ("train", "test"):
        for line in (SAMPLES / "psychol" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            assert TASKS["psychol"].divide(json.loads(line)) == split


def test_subjects_by_name(tmp_path: Path) -> None:
    task = resolve_task("medmcqa:social_preventive_medicine")
    assert task.row_filter({"subject_name": "Social & Preventive Medicine"})
    assert not task.row_filter({"subject_name": "Surgery"})
    assert resolve_task("mmlu:anatomy").hub_configs == ("anatomy",)


def test_hub_files_stand_in_for_train_and_test(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "choices": ["a", "b"], "answer": 0} for i in range(3)]
    folder = tmp_path / "mmlu" / "anatomy"
    for name, row in zip(("dev", "validation", "test"), rows, strict=True):
        write_rows(folder / f"{name}.jsonl", [row])
    task = resolve_task("mmlu:anatomy")
    source = task_source(task, str(tmp_path))
    assert available_splits(task, source) == ("train", "test")
    assert [p.split("\n")[0] for p in load_task(task, "train", source=source)["prompt"]] == [
        "Question: q0",
        "Question: q1",
    ]
    assert load_task(task, "test", source=source).num_rows == 1


def test_one_task_from_a_path_of_its_own(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [DENTAL_ROW])
    task = resolve_task(f"dental@{path}")
    assert (task.name, task.path, task.hub_id) == ("dental", path, None)
    assert resolve_task(f"mmlu:anatomy@{path}").path == path
    assert list(load_task(task, source="hub")["answer"]) == ["B"]


def test_local_multiple_choice(tmp_path: Path) -> None:
    row = {"prompt": "2 + 2 =", "completion": " 4", "choices": [" 3", " 4"]}
    path = write_rows(tmp_path / "sums.jsonl", [row])
    assert load_local(path)[0] == {**row, "answer": "4", "row": "0"}


# Metrics --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "answer", "language", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", "en", 1.0),
        ("big Eiffel Tower", "Eiffel Tower", "en", 0.8),
        ("Rome", "Paris", "en", 0.0),
        ("the", "a", "en", 1.0),
        ("", "Paris", "en", 0.0),
        ("der Turm", "Turm", "de", 1.0),
        ("the Turm", "Turm", "de", 2 / 3),
        ("复杂性理论", "计算复杂性理论", "zh", 10 / 12),
        ("计算，理论。", "计算理论", "zh", 1.0),
    ],
)
def test_token_f1(found: str, answer: str, language: str, f1: float) -> None:
    assert token_f1(answer_tokens(found, language), answer_tokens(answer, language)) == pytest.approx(f1)


def test_f1_task_counts_exact_matches_as_well() -> None:
    scores = score_answers(
        TASKS["xquad:en"], [" The tower.\nQuestion: x", " red tower", ""], ["tower", "tower", "tower"]
    )
    assert scores.correct == [True, False, False]
    assert scores.scores == pytest.approx([1.0, 2 / 3, 0.0])
    assert scores.value == pytest.approx(5 / 9)
    assert scores.unparsable == 1


def test_chrf_is_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="chrF needs the extra eval")
    found, answers = [" Tom is here.\nGerman:", " A cat"], ["Tom was here.", "A dog sleeps"]
    scores = score_answers(TASKS["tatoeba_de_en"], found, answers)
    assert scores.value == sacrebleu.corpus_chrf(["Tom is here.", "A cat"], [answers]).score
    assert scores.scores[0] == sacrebleu.sentence_chrf("Tom is here.", ["Tom was here."]).score
    assert scores.correct is None
    assert scores.num_correct is None


def test_chrf_without_sacrebleu_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ImportError, match=r"needs sacrebleu.*pip install 'graceful-forgetting\[eval\]'"):
        require_metric(TASKS["tatoeba_de_en"])
    require_metric(GSM8K)
