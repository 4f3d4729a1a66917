"""Tasks: formats, answer parsing, metrics, the vendored samples and the user's own data."""

import json
from pathlib import Path

import pytest

from graceful_forgetting.tasks import (
    TASKS,
    available_splits,
    load_local,
    load_task,
    local_task,
    resolve_task,
    score_answers,
)

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
        ("", None),
    ],
)
def test_dental_parses_the_letter(text: str, answer: str | None) -> None:
    assert DENTAL.parse_answer(text) == answer


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize(("split", "size"), [("train", 300), ("test", 100)])
def test_every_sample_row_loads_and_its_own_completion_scores(name: str, split: str, size: int) -> None:
    dataset = load_task(name, split, source="sample")
    assert dataset.num_rows == size
    assert dataset.column_names == ["prompt", "completion", "answer", "row"]
    assert len(set(dataset["row"])) == size
    assert score_answers(TASKS[name], list(dataset["completion"]), list(dataset["answer"]))["value"] == 1.0


@pytest.mark.parametrize("name", sorted(TASKS))
def test_sample_splits_share_no_prompt(name: str) -> None:
    train, test = (set(load_task(name, split, source="sample")["prompt"]) for split in ("train", "test"))
    assert not train & test


def test_dental_sample_has_only_dental_rows_with_hub_ids() -> None:
    row = load_task("dental", "train", source="sample")[0]
    assert row["row"] == "f184a533-98b4-43ad-b1f5-70edc6704d9e"
    assert row["answer"] in DENTAL.choices


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
    assert scores == {
        "metric": "accuracy",
        "value": 1 / 3,
        "num_items": 3,
        "num_correct": 1,
        "num_unparsable": 1,
        "correct": [True, False, False],
    }
