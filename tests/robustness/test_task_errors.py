"""Bad task input: every message names what was given, what is wrong and what to do."""

import json
import re
from pathlib import Path

import pytest

from graceful_forgetting.tasks import Task, load_local, load_task, resolve_task, score_answers
from graceful_forgetting.tasks.gsm8k import GSM8K

DENTAL_ROW = {
    "id": "x",
    "question": "q",
    "opa": "a",
    "opb": "b",
    "opc": "c",
    "opd": "d",
    "cop": 0,
    "subject_name": "Dental",
}


def write(path: Path, *lines: str | dict) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown task 'gsm8': did you mean 'gsm8k'\?.*Known tasks: arc_easy, .*gsm8k"
    ):
        load_task("gsm8")


def test_unknown_task_unlike_any_lists_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"unknown task 'zzzz': Known tasks: arc_easy, .*, mmlu:<subject>, .*; or give the path"
    ):
        resolve_task("zzzz")


@pytest.mark.parametrize("name", ["missing.jsonl", "folder/of/rows"])
def test_missing_path_says_which(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / name))):
        resolve_task(name)


def test_missing_source_names_task_and_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"task 'gsm8k', source='.*nowhere'.*no file or folder"):
        load_task("gsm8k", source=tmp_path / "nowhere")


def test_folder_without_the_split_says_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no data in folder .*: tried train\.jsonl, test\.jsonl"):
        load_task("gsm8k", source=tmp_path)
    write(tmp_path / "train.jsonl", {"question": "q", "answer": "#### 1"})
    with pytest.raises(FileNotFoundError, match=r"tried test\.jsonl; there is train\.jsonl"):
        load_task("gsm8k", "test", source=tmp_path)


def test_one_file_is_not_both_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "p", "completion": "c"})
    with pytest.raises(FileNotFoundError, match="one file is taken as the train split"):
        load_local(path, "test")


@pytest.mark.parametrize("split", ["validation", "Train"])
def test_unknown_split(split: str) -> None:
    with pytest.raises(ValueError, match=rf"split='{split}'.*train or test"):
        load_task("gsm8k", split, source="sample")


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(limit: int) -> None:
    with pytest.raises(ValueError, match=rf"limit={limit} is not valid"):
        load_task("gsm8k", source="sample", limit=limit)


def test_wrong_columns_say_needed_missing_and_present(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {"question": "q", "solution": "s"})
    columns = "needs columns question, answer; missing: answer; present: question, solution"
    with pytest.raises(ValueError, match=rf"train\.jsonl:1: task 'gsm8k' {columns}"):
        load_task("gsm8k", source=path)


def test_wrong_columns_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset

    monkeypatch.setattr(
        "graceful_forgetting.tasks.loading.load_dataset", lambda *_, **__: Dataset.from_list([{"text": "t"}])
    )
    with pytest.raises(ValueError, match=r"openai/gsm8k main \[train\]: .*missing: question, answer; present: text"):
        load_task("gsm8k")


def test_local_row_without_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "p", "completion": "c"}, {"input": "i", "output": "o"})
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: .*missing: prompt; present: input, output"):
        load_local(path)


@pytest.mark.parametrize("line", ['{"prompt": "p"', "plain text"])
def test_malformed_line_is_named(line: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "p", "completion": "c"}, "", line)
    with pytest.raises(ValueError, match=r"rows\.jsonl:3 is not valid JSON"):
        load_local(path)


def test_line_that_is_no_object(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '["p", "c"]')
    with pytest.raises(ValueError, match=r"rows\.jsonl:1 is a JSON list; each line must be one JSON object"):
        load_local(path)


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_empty_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"rows\.jsonl is empty"):
        load_local(path)


def test_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl is not UTF-8"):
        load_local(path)


def test_no_row_left_after_the_filter(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {**DENTAL_ROW, "subject_name": "Surgery"})
    with pytest.raises(ValueError, match=r"no row of .*train\.jsonl belongs to task 'dental'"):
        load_task("dental", source=path)


@pytest.mark.parametrize("option", [-1, 4, "B", None, True])
def test_option_number_out_of_range(option: object, tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", DENTAL_ROW, {**DENTAL_ROW, "cop": option})
    with pytest.raises(ValueError, match=rf"train\.jsonl:2: cop={option!r} is not an option number from 0 to 3"):
        load_task("dental", source=path)


def test_solution_without_a_final_number(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {"question": "q", "answer": "it is 3"})
    with pytest.raises(ValueError, match=r"train\.jsonl:1: answer has no number after '####'"):
        load_task("gsm8k", source=path)


def test_field_that_is_not_text(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {"question": None, "answer": "#### 3"})
    with pytest.raises(ValueError, match=r"train\.jsonl:1: question=None is not text"):
        load_task("gsm8k", source=path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ""}, "prompt='' is neither text nor a list"),
        ({"prompt": 3}, "prompt=3 is neither text nor a list"),
        ({"prompt": [{"role": "user"}]}, "is neither text nor a list"),
        ({"prompt": "p", "completion": 3}, "completion=3 is not text, but prompt is"),
        ({"prompt": "p", "completion": "c", "choices": ["c"]}, "choices=['c'] is not a list of two texts or more"),
        ({"prompt": "p", "completion": "c", "choices": ["a", "b"]}, "completion='c' is none of choices=['a', 'b']"),
        ({"prompt": [{"role": "user", "content": "q"}], "choices": ["a", "b"]}, "choices needs a prompt"),
        (
            {"prompt": [{"role": "user", "content": "p"}], "completion": "c"},
            "completion='c' is not a list of turns, but prompt is one",
        ),
        ({"messages": "hello"}, "messages='hello' is not a list"),
        ({"messages": [{"role": "assistant", "content": "c"}]}, "a prompt must come before it"),
    ],
)
def test_unusable_local_row(row: dict, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: .*" + re.escape(message)):
        load_local(path, require_completion=False)


def test_prompts_alone_are_no_learning_task(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "p", "completion": "c"}, {"prompt": "q"})
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: has no completion"):
        load_local(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "completion": "c"}, "with and without completion are mixed"),
        ({"prompt": [{"role": "user", "content": "q"}]}, "text and conversations are mixed"),
    ],
)
def test_mixed_forms(row: dict, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "p"}, row)
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: .*{message} \(compare .*rows\.jsonl:1\)"):
        load_local(path, require_completion=False)


@pytest.mark.parametrize("offline", ["1", ""])
def test_unreachable_hub_offers_the_sample(offline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setattr("graceful_forgetting.tasks.loading.load_dataset", unreachable)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(ConnectionError, match=r"could not load openai/gsm8k.*source='sample'.*source=<path") as caught:
        load_task("gsm8k")
    assert ("HF_HUB_OFFLINE=1 is set" in str(caught.value)) == (offline == "1")


def test_task_needs_exactly_one_origin() -> None:
    fields = {
        "name": "t",
        "description": "",
        "licence": "",
        "columns": (),
        "format_row": GSM8K.format_row,
        "parse_answer": GSM8K.parse_answer,
        "metric": "exact_match",
    }
    with pytest.raises(ValueError, match="either hub_id or path"):
        Task(**fields)
    with pytest.raises(ValueError, match="must name train and test"):
        Task(**fields, hub_id="a/b", splits={"train": "train"})


def test_scores_need_one_answer_a_completion() -> None:
    with pytest.raises(ValueError, match="2 items and answers 1"):
        score_answers(GSM8K, ["1", "2"], ["1"])
    with pytest.raises(ValueError, match="nothing to score for task 'gsm8k'"):
        score_answers(GSM8K, [], [])
