"""Bad task input: every message names what was given, what is wrong and what to do."""

import json
import re
from pathlib import Path

import datasets
import pytest
from datasets import Dataset

from graceful_forgetting.tasks import Task, load_local, load_task, loading, resolve_task, score_answers
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
USER, SAID = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


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


@pytest.mark.parametrize("name", ["gsm8k", "sst5", "cloze:qasc", "", "qask"])
def test_cloze_form_of_a_task_without_lettered_options_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown task 'cloze:{name}': .*cloze:qasc, .*cloze:mmlu:<subject>"):
        resolve_task(f"cloze:{name}")


def test_empty_option_has_no_cloze_form(tmp_path: Path) -> None:
    row = {"question": "q?", "choices": ["a", " "], "answer": 0}
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"test\.jsonl:1: options=.* has an empty text"):
        load_task("cloze:mmlu:anatomy", "test", source=path)


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


def test_keys_that_stand_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "p", "completion": "c"}, '{"prompt": "a", "prompt": "b"}')
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: key 'prompt' stands twice in one object; keep one"):
        load_local(path)


def test_half_a_character_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", r'{"prompt": "p\ud83d\ude00", "completion": "a\udfff"}')
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: completion has half a character, \\udfff, at position 1: "):
        load_local(path)
    whole = write(tmp_path / "whole.jsonl", r'{"prompt": "p\ud83d\ude00", "completion": "a"}')
    assert load_local(whole)[0]["prompt"] == "p\U0001f600"
    turns = write(tmp_path / "turns.jsonl", r'{"messages": [{"role": "user", "content": "\uD800"}]}')
    with pytest.raises(ValueError, match=r"turns\.jsonl:1: messages has half a character"):
        load_local(turns)


def test_a_number_of_5000_digits_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"prompt": "p", "completion": ' + "7" * 5000 + "}")
    message = r"rows\.jsonl:1: completion: the number 7{20}\.\.\. has 5000 digits, .*write it as text"
    with pytest.raises(ValueError, match=message):
        load_local(path)


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_nesting_is_named(depth: int, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"prompt": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: nested deeper than 64"):
        load_local(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_other_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"prompt": "caf\xe9", "completion": "c"}\n'.encode(encoding))
    with pytest.raises(ValueError, match=r"rows\.jsonl.*save it as UTF-8"):
        load_local(path)


def test_a_byte_that_is_not_utf8_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "p", "completion": "c"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"\(line 2: byte 0xe9 at column 16\); save it as UTF-8"):
        load_local(path)


@pytest.mark.timeout(20)
def test_long_lines_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "a" * 2_000_000, "completion": "b" * 5_000_000})
    assert len(load_local(path)[0]["completion"]) == 5_000_000


def test_values_in_messages_are_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "p", "completion": ["x" * 5000] * 5000})
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: completion=\['x.*is not text") as caught:
        load_local(path)
    assert len(str(caught.value)) < 600


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
        ({"prompt": ""}, "prompt='': it is empty or white space"),
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
        ({"prompt": " "}, "prompt=' ': it is empty or white space; write text, or remove the row"),
        ({"prompt": "p", "completion": ""}, "completion='': it is empty or white space"),
        ({"prompt": "p", "completion": " \n"}, "completion=' \\n': it is empty or white space"),
        ({"prompt": "p", "completion": "a", "choices": ["a", " "]}, "has a text of white space only"),
        ({"prompt": "p", "completion": "a", "choices": ["a", "a"]}, "has a text twice"),
        (
            {"prompt": "p", "completion": " a", "choices": [" a", " a "]},
            "has a text twice, but for the space around it",
        ),
        ({"prompt": "p", "options": ["a", "a "]}, "all different in more than the space around them"),
        ({"question": "q", "answer": "a"}, "missing: prompt; present: answer, question. Rename the columns"),
        ({"prompt": "p", "system": "Be kind."}, "system='Be kind.' would not reach the model"),
        ({"prompt": "p", "tools": [{"name": "f"}]}, "tools=[{'name': 'f'}] would not reach the model"),
        (
            {"messages": [USER, SAID], "chat_template_kwargs": {"thinking": True}},
            "chat_template_kwargs={'thinking': True} would not reach the model",
        ),
        ({"messages": [USER, {**SAID, "content": "", "tool_calls": [1]}]}, "messages, turn 2 has tool_calls=[1]"),
        ({"messages": [USER, {**SAID, "reasoning_content": "so"}]}, "messages, turn 2 has reasoning_content='so'"),
        ({"prompt": [USER], "completion": [{**SAID, "weight": 0}]}, "completion, turn 1 has weight=0"),
        ({"messages": [USER, {**SAID, "content": None}]}, "is not a list of {'role', 'content'} turns: turn 2 has con"),
        ({"messages": [USER, {**SAID, "content": [{"type": "text"}]}]}, "turn 2 has content=[{'type': 'text'}]"),
        ({"messages": [USER, {**SAID, "content": ""}]}, "messages, turn 2 (assistant) has content='': it is empty"),
        ({"messages": [{**USER, "role": "human"}, SAID]}, "turn 1 has role='human', which is none of system, user, as"),
        ({"messages": [USER, {"role": "tool", "content": "4"}, SAID]}, "messages, turn 2 has role='tool'"),
        ({"messages": [{"role": "system", "content": "s"}, SAID]}, "messages has system turns only"),
        ({"messages": [USER, SAID], "completion": "c"}, "has messages and completion='c': give messages alone"),
        ({"prompt": [USER], "completion": [SAID, USER]}, "completion, turn 2 has role='user'"),
        ({"prompt": [USER], "completion": [USER, SAID]}, "completion, turn 1 has role='user'"),
        (
            {"prompt": "p", "completion": "c", "forgetting_confidence": float("nan")},
            "forgetting_confidence=nan is not a finite number",
        ),
        ({"messages": [{"role": "assistant", "content": "c"}]}, "a prompt must come before it"),
    ],
)
def test_unusable_local_row(row: dict, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: .*" + re.escape(message)):
        load_local(path, require_completion=False)


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_in_one_list_are_told_how_to_become_lines(indent, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"prompt": "p", "completion": "c"}] * 2, indent=indent))
    with pytest.raises(ValueError, match=r"rows\.json:1 is .*Of one list, write the rows with (.*)") as error:
        load_local(path)
    assert rows_of_remedy(str(error.value)) == [{"prompt": "p", "completion": "c"}] * 2


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_are_told_how_to_become_lines(kind, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{kind}"
    rows = Dataset.from_list([{"prompt": "p", "completion": " c"}])
    (rows.to_csv if kind == "csv" else rows.to_parquet)(path)
    with pytest.raises(ValueError, match=rf"rows\.{kind} is no JSON Lines file: write the rows with") as error:
        load_local(path)
    assert rows_of_remedy(str(error.value)) == [{"prompt": "p", "completion": " c"}]


def rows_of_remedy(message: str) -> list[dict]:
    """What the file holds that the Python in the message writes."""
    load, written = re.fullmatch(r".*write the rows with datasets\.(.*)\.to_json\('(.*)'\)", message).groups()
    eval(f"datasets.{load}", {"datasets": datasets}).to_json(written)
    return [{"prompt": row["prompt"], "completion": row["completion"]} for row in load_local(Path(written))]


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


def test_several_turns_are_no_reference(tmp_path: Path) -> None:
    row = {"prompt": [USER], "completion": [SAID, USER, SAID]}
    write(tmp_path / "test.jsonl", row)
    write(tmp_path / "train.jsonl", row)
    assert len(load_local(tmp_path)[0]["completion"]) == 3
    with pytest.raises(ValueError, match=r"test\.jsonl:1: completion has 3 turns, and one answer is generated"):
        load_local(tmp_path, "test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_of_different_form(split: str, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", {"prompt": "p", "completion": "c"})
    write(tmp_path / "test.jsonl", {"messages": [USER, SAID]})
    with pytest.raises(ValueError, match=r"text and conversations are mixed \(compare .*jsonl:1\); give both splits"):
        load_local(tmp_path, split)


def test_rows_that_a_limit_leaves_out_are_checked(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "completion": "c"} for number in range(9)]
    path = write(tmp_path / "rows.jsonl", *rows, {"prompt": "p", "completion": " "})
    with pytest.raises(ValueError, match=r"rows\.jsonl:10: completion=' '"):
        load_local(path, limit=1)


def test_keys_that_a_table_filled_with_null_are_no_turns_of_tools(tmp_path: Path) -> None:
    turn = {**SAID, "tool_calls": None, "name": ""}
    path = write(tmp_path / "rows.jsonl", {"messages": [USER, turn], "prompt": None, "tools": []})
    assert load_local(path)[0]["completion"] == [SAID]


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


def test_the_bar_says_when_rows_that_are_checked_are_arranged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said, bar = [], loading.progress_bar

    def watched(description: str, *positional, **keywords):
        made = bar(description, *positional, **keywords)
        monkeypatch.setattr(made, "set_description", lambda name, **_: said.append(name))
        said.append(description)
        return made

    monkeypatch.setattr(loading, "progress_bar", watched)
    load_local(write(tmp_path / "rows.jsonl", {"prompt": "p", "completion": " c"}))
    assert said == ["reading rows, train", "checking rows, train", "arranging rows, train"]
