"""Tasks described in YAML: what they make of rows, and what they say about mistakes."""

import json
import time
from datetime import date
from pathlib import Path

import pytest
import yaml

from graceful_forgetting.tasks import available_splits, file_task, load_task, resolve_task, score_answers

CAPITALS = {
    "data": "capitals",
    "columns": ["country", "capital"],
    "prompt": "The capital of {{ country }} is",
    "completion": " {{ capital }}",
}
QUIZ = {
    "data": "quiz",
    "columns": ["question", "options", "key"],
    "prompt": "{{ question }}\n{{ lettered(choices) }}\nAnswer:",
    "choices": "options.text",
    "correct": "options.label.index(key)",
}
QUIZ_ROW = {"question": "2 + 2?", "options": {"text": ["3", "4", "5"], "label": ["x", "y", "z"]}, "key": "y"}


@pytest.fixture
def write(tmp_path: Path):
    """Writes a task file beside the data of both tasks; a key with the value None is left out."""

    def write_task(base: dict, **changes) -> Path:
        rows = {"capitals": {"country": "France", "capital": "Paris"}, "quiz": QUIZ_ROW}
        for name, row in rows.items():
            for split in ("train", "test"):
                path = tmp_path / name / f"{split}.jsonl"
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        content = {key: value for key, value in {**base, **changes}.items() if value is not None}
        path = tmp_path / "my_task.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write_task


def test_plain_task(write) -> None:
    path = write(CAPITALS, name="capitals", licence="CC0", parse="first_line")
    task = resolve_task(str(path))
    assert (task.name, task.metric, task.licence) == ("capitals", "exact_match", "CC0")
    assert available_splits(task) == ("train", "test")
    assert load_task(task, "test")[0] == {
        "prompt": "The capital of France is",
        "completion": " Paris",
        "answer": "Paris",
        "row": "0",
    }
    assert score_answers(task, [" Paris\nmore", "Rome"], ["Paris", "Paris"]).correct == [True, False]


def test_multiple_choice_task(write) -> None:
    task = file_task(write(QUIZ))
    assert (task.name, task.metric) == ("my_task", "accuracy")
    assert load_task(task)[0] == {
        "prompt": "2 + 2?\nA. 3\nB. 4\nC. 5\nAnswer:",
        "completion": " B. 4",
        "answer": "B",
        "choices": [" A. 3", " B. 4", " C. 5"],
        "row": "0",
    }


@pytest.mark.parametrize("correct", ["1", "key", "'4'", "'B'"])
def test_the_correct_choice_by_number_text_or_letter(write, correct: str) -> None:
    task = file_task(write(QUIZ, correct=correct))
    assert task.format_row({**QUIZ_ROW, "key": "4"})["answer"] == "B"


def test_what_is_known_of_a_choice_is_read(write) -> None:
    known = {"old_answer": "{{ lettered(choices)[0] }}", "kind": "{{ 'neutral' if key == 'C' else 'conflicting' }}"}
    row = load_task(file_task(write(QUIZ, **known)))[0]
    assert (row["old_answer"], row["kind"], row["answer"]) == ("A", "conflicting", "B")


def test_fixed_choices_without_letters(write) -> None:
    fields = {"choices": ["bad", "good"], "correct": "label", "completion": " {{ choice }}", "parse": "exact"}
    task = file_task(write(QUIZ, columns=["question", "label"], prompt="{{ question }}", **fields))
    assert task.format_row({"question": "q", "label": 1}) == {
        "prompt": "q",
        "completion": " good",
        "answer": "good",
        "choices": [" bad", " good"],
    }


@pytest.mark.parametrize(
    ("parse", "completion", "answer"),
    [
        ("exact", " a b ", "a b"),
        ("first_line", "\n a \n b", "a"),
        ("first_letter", " B. x", "B"),
        ("last_number", "it is $1,080.00", "1080"),
        ({"regex": r"=\s*(\w+)"}, "x = y7.", "y7"),
        ({"regex": r"\d+"}, "x 12 13", "12"),
    ],
)
def test_ways_to_read_answers(write, parse, completion: str, answer: str) -> None:
    task = file_task(write(CAPITALS, parse=parse, completion="{{ capital }}"))
    assert task.format_row({"country": "c", "capital": completion})["answer"] == answer


def test_hub_task_names_configuration_and_splits(write) -> None:
    hub = {"id": "owner/name", "config": "main", "splits": {"train": "train", "test": "validation"}}
    task = file_task(write(CAPITALS, data=None, hub=hub))
    assert (task.hub_id, task.hub_configs, task.splits["test"]) == ("owner/name", ("main",), "validation")


def test_names_that_are_no_words_are_reached_through_the_row(write) -> None:
    task = file_task(write(CAPITALS, columns=["the country", "capital"], prompt="{{ row['the country'] }}?"))
    assert task.format_row({"the country": "Peru", "capital": "Lima"})["prompt"] == "Peru?"


def test_a_changed_file_is_another_definition(write) -> None:
    assert file_task(write(CAPITALS)).definition != file_task(write(CAPITALS, parse="first_line")).definition


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"promt": "x"}, r"key 'promt' is unknown: did you mean 'prompt'\? Keys: name"),
        ({"prompt": None}, r"key 'prompt' is missing; it must be text"),
        ({"prompt": ["x"]}, r"key 'prompt' is \['x'\]: it must be text"),
        ({"prompt": "{{ country"}, r"key 'prompt' is '{{ country': not a valid template"),
        ({"prompt": "{{ county }}"}, r"key 'prompt'.*reads 'county', which is no column; did you mean 'country'\?"),
        ({"columns": "country"}, r"key 'columns' is 'country': it must be a list of texts"),
        ({"columns": None}, r"key 'columns' is None: it must be a list of texts"),
        ({"metric": "acc"}, r"key 'metric' is 'acc': it must be one of accuracy, exact_match, f1, chrf"),
        (
            {"parse": "number"},
            r"key 'parse' is 'number': it must be one of exact, first_line, first_letter, last_number",
        ),
        ({"parse": {"regex": "("}}, r"key 'parse.regex' .* not a valid regular expression"),
        ({"data": None}, r"give either key 'data' .* or key 'hub'"),
        ({"hub": {"id": "a/b"}}, r"give either key 'data' .* and not both"),
        ({"data": None, "hub": "a/b"}, r"key 'hub' is 'a/b': it must hold id"),
        ({"data": None, "hub": {"id": "a/b", "split": {}}}, r"key 'hub.split' is unknown: did you mean 'splits'\?"),
        ({"data": None, "hub": {"id": "a/b", "splits": {"train": "x"}}}, r"key 'hub.splits' .*it must name both"),
        ({"system_prompt": " "}, r"key 'system_prompt' is ' ': it must be text that is not empty"),
        ({"correct": "1"}, r"key 'correct' is '1': it needs choices"),
        ({"id_column": "id"}, r"key 'id_column' is 'id': it must be one of columns: country, capital"),
    ],
)
def test_mistakes_name_file_key_value_and_fix(write, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r"my_task\.yaml: " + message):
        file_task(write(CAPITALS, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "{{ key }}"}, r"key 'answer' .*with choices the answer is the correct one"),
        ({"correct": None}, r"key 'correct' is missing"),
        ({"correct": "label.index(key)"}, r"key 'correct' .*reads 'label', which is no column"),
        ({"choices": "options.text +"}, r"key 'choices' .*not a valid template"),
        ({"choices": " "}, r"key 'choices' .*not a valid expression"),
        ({"choices": "options.text) + (options.text"}, r"key 'choices' .*not a valid expression"),
        ({"choices": []}, r"key 'choices' is \[\]: it must be a list of texts"),
        ({"completion": "{{ chioce }}"}, r"key 'completion' .*reads 'chioce'"),
        ({"options": ["a", "b"]}, r"key 'options' .*with choices remove it"),
        ({"old_answer": "{{ before }}"}, r"key 'old_answer' .*reads 'before', which is no column"),
    ],
)
def test_mistakes_in_multiple_choice(write, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=r"my_task\.yaml: " + message):
        file_task(write(QUIZ, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"choices": "options.texts"}, r"quiz/train\.jsonl:1: 'options\.texts' has no value"),
        ({"choices": "question"}, r"choices has the value '2 \+ 2\?'; it must be a list of texts"),
        ({"correct": "7"}, r"correct has the value 7: it must be a number from 0 to 2"),
        ({"completion": " x"}, r"does not tell them apart"),
        ({"parse": "last_number", "completion": " {{ letter }}"}, r"does not tell them apart"),
        ({"old_answer": "B"}, r"train\.jsonl:1: the old answer 'B' is read as 'B', which is the right one"),
        (
            {"old_answer": "D"},
            r"the old answer 'D' is read as 'D', which is none of the choices, read as \['A', 'B', 'C'\]",
        ),
        ({"kind": "bad"}, r"train\.jsonl:1: kind='bad' must be one of conflicting, helpful, neutral"),
        ({"prompt": "{{ '' if key else key }} "}, r"prompt=' ' is empty or white space.*key 'prompt' of .*my_task"),
    ],
)
def test_rows_that_do_not_fit_are_named(write, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task(file_task(write(QUIZ, **changes)))


def test_a_right_completion_that_would_count_as_wrong_is_refused(write) -> None:
    task = file_task(write(CAPITALS, completion=" It is {{ capital }}.", answer="{{ capital }}"))
    with pytest.raises(ValueError, match=r"train\.jsonl:1: .*is read as 'It is Paris\.', and the answer is 'Paris'"):
        load_task(task)


@pytest.mark.parametrize(
    "source",
    [
        "{{ country.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ lettered.__globals__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
    ],
)
def test_templates_reach_nothing_but_values(write, source: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be filled in"):
        load_task(file_task(write(CAPITALS, prompt=source)))


def test_missing_files_are_named(write, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no task file at .*nothing\.yaml"):
        resolve_task(tmp_path / "nothing.yaml")
    with pytest.raises(FileNotFoundError, match=r"my_task\.yaml: key 'data' is 'elsewhere'"):
        file_task(write(CAPITALS, data="elsewhere"))


@pytest.mark.parametrize("content", ["- a\n", "prompt: [\n", ""])
def test_files_that_are_no_task(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"t\.yaml (is not valid YAML|must hold keys and values)"):
        file_task(path)


def test_the_examples_of_the_documentation_are_valid(write, tmp_path: Path) -> None:
    write(CAPITALS)
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    examples = [block.split("```")[0] for block in page.split("```yaml\n")[1:]]
    assert len(examples) == 2
    tasks = []
    for number, example in enumerate(examples):
        assert len(example.splitlines()) < 60
        path = tmp_path / f"example{number}.yaml"
        path.write_text(example, encoding="utf-8")
        tasks.append(file_task(path))
    assert load_task(tasks[0])[0]["completion"] == " Paris"
    choices = {"label": ["A", "B"], "text": ["bank", "shore"]}
    assert tasks[1].format_row({"question": "River?", "choices": choices, "answerKey": "B"}) == {
        "prompt": "Question: River?\nA. bank\nB. shore\nAnswer:",
        "completion": " B. shore",
        "answer": "B",
        "choices": [" A. bank", " B. shore"],
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "None"),
        (True, "True"),
        (["Lima"], r"\['Lima'\]"),
        ({"a": 1}, r"\{'a': 1\}"),
        (float("nan"), "nan"),
    ],
)
def test_a_hole_in_the_row_is_no_text(write, value: object, shown: str) -> None:
    path = write(CAPITALS)
    row = {"country": "Peru", "capital": value}
    (path.parent / "capitals" / "train.jsonl").write_text(json.dumps(row), encoding="utf-8")
    message = (
        rf"train\.jsonl:1: .*it writes capital, which is {shown}; write text or a number.*key 'completion' of .*yaml"
    )
    with pytest.raises(ValueError, match=message):
        load_task(file_task(path))


def test_numbers_and_chosen_items_are_text(write) -> None:
    task = file_task(write(CAPITALS, prompt="{{ country[0] }} {{ country | length }}", completion="{{ capital }}"))
    row = task.format_row({"country": ["Peru"], "capital": 2.5})
    assert (row["prompt"], row["completion"]) == ("Peru 1", "2.5")


@pytest.mark.parametrize("key", ["prompt", "completion"])
def test_texts_of_white_space_are_refused(write, key: str) -> None:
    task = file_task(write(CAPITALS, **{key: "{{ capital }} "}))
    with pytest.raises(ValueError, match=rf"{key}=' +' is empty or white space.*key '{key}' of .*my_task\.yaml"):
        task.format_row({"country": "c", "capital": " "})


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10000000000 }}",
        "{{ 10000000000 * country }}",
        "{{ [1] * 10000000000 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x * 2 %}{% endfor %}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10000000000, 1) }}",
        "{{ '%10000000000d' | format(1) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ '{:{w}}'.format(1, w=10000000000) }}",
        "{{ ('x' * 9999) | replace('x', 'y' * 9999) }}",
        "{{ country.upper }}",
    ],
)
def test_templates_that_run_away_end_in_an_error(write, source: str) -> None:
    task = file_task(write(CAPITALS, prompt=source))
    started = time.process_time()
    with pytest.raises(
        ValueError, match=r"train\.jsonl:1: .*cannot be filled in: .*\(key 'prompt' of .*my_task\.yaml\)"
    ):
        load_task(task)
    assert time.process_time() - started < 1


def test_usual_templates_are_within_the_limits(write) -> None:
    loop = "{% for c in country %}{{ c ~ '-' }}{% endfor %}"
    source = loop + "{{ '%5.2f' % 2.5 }} In 2024 {{ capital | replace('a', 'b', 1) }}"
    row = file_task(write(CAPITALS, prompt=source)).format_row({"country": "Peru", "capital": "Paras"})
    assert row["prompt"] == "P-e-r-u- 2.50 In 2024 Pbras"


@pytest.mark.parametrize(
    "source", ["{% include 'x' %}", "{{ country | nothing }}", "{{ " + "(" * 9999 + " }}", "{{ x | random }}"]
)
def test_what_is_no_template_names_the_key(write, source: str) -> None:
    with pytest.raises(ValueError, match=r"my_task\.yaml: key 'prompt' .*not a valid template"):
        file_task(write(CAPITALS, prompt=source))


@pytest.mark.timeout(10)
def test_a_pattern_that_runs_away_is_refused_before_any_row(write) -> None:
    with pytest.raises(ValueError, match=r"my_task\.yaml: key 'parse\.regex' .*takes longer than 0\.25 s"):
        file_task(write(CAPITALS, parse={"regex": "^(a|aa)+$"}))


@pytest.mark.timeout(10)
def test_a_pattern_of_nested_repetitions_comes_to_an_end(write) -> None:
    task = file_task(write(CAPITALS, completion="a" * 40 + "!", parse={"regex": "^((a+)+)$"}))
    with pytest.raises(
        ValueError, match=r"train\.jsonl:1: no answer can be read in 'aaa.*check the keys answer and parse"
    ):
        load_task(task)


@pytest.mark.timeout(10)
def test_a_pattern_that_runs_away_on_a_generated_text_counts_as_wrong(write, caplog) -> None:
    task = file_task(write(CAPITALS, completion=" b", parse={"regex": "^(b|c|bc)+$"}))
    scores = score_answers(task, ["b", "bc" * 40 + "!"], ["b", "b"])
    assert (scores.correct, scores.unparsable) == ([True, False], 1)
    assert "takes longer than 0.25 s" in caplog.text


def test_a_correct_choice_out_of_bounds_names_row_and_key(write) -> None:
    message = r"quiz/train\.jsonl:1: correct has the value 7: .* from 0 to 2.*\(key 'correct' of .*my_task\.yaml\)"
    with pytest.raises(ValueError, match=message):
        load_task(file_task(write(QUIZ, correct="7")))


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt: a\nprompt: b\n", r"has 'prompt' twice, in lines 1 and 2: keep one"),
        ("hub: {id: a, id: b}\n", r"has 'id' twice, in lines 1 and 1: keep one"),
        ("prompt: &a [*a]\n", r"line 1: an alias stands for a value that contains it"),
        ("prompt: " + "[" * 3000 + "]" * 3000, r"nested more than 50 deep"),
        ("prompt: " + "7" * 5000, r"(has a value that cannot be read|must be text)"),
        ("prompt: caf\xe9".encode("latin-1"), r"line 1, is not UTF-8 text: save the file as UTF-8"),
        ("prompt: a".encode("utf-16"), r"line 1, is not UTF-8 text: save the file as UTF-8"),
    ],
)
def test_yaml_that_hides_something(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r"t\.yaml.*" + message):
        file_task(path)


def test_a_byte_order_mark_is_read(write) -> None:
    path = write(CAPITALS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert file_task(path).columns == ("country", "capital")


def test_labels_are_read_in_their_order(write) -> None:
    labels = {"new": "(?i)lyon", "old": "(?i)paris"}
    task = file_task(write(CAPITALS, parse={"labels": labels}, completion=" Lyon", old_answer=" {{ capital }}"))
    rows = load_task(task, "test")
    assert (rows["answer"], rows["old_answer"]) == (["new"], [" Paris"])
    scores = score_answers(task, [" It is LYON, not Paris.", " Paris", " Rome"], ["new"] * 3)
    assert scores.correct == [True, False, False]
    assert [task.parse_answer(text) for text in (" Paris", " Rome")] == ["old", "other"]


def test_an_old_answer_that_is_right_is_refused(write) -> None:
    with pytest.raises(ValueError, match=r"train\.jsonl:1: the old answer ' Paris' is read as 'Paris', which is the"):
        load_task(file_task(write(CAPITALS, old_answer=" {{ capital }}")))


def test_letters_count_as_they_look_however_they_are_encoded(write) -> None:
    task = file_task(write(CAPITALS))
    one, two = "Bogot\u00e1", "Bogota\u0301"
    assert score_answers(task, [one, two, one, "Bogota"], [one, one, two, two]).correct == [True, True, True, False]


@pytest.mark.parametrize(
    "changes",
    [{"completion": True}, {"completion": date(2026, 1, 1)}, {"columns": ["country", False]},
     {"parse": {"labels": {True: "a", "no": "b"}}}, {"prompt": 5}],
    ids=str,
)  # fmt: skip
def test_words_that_yaml_reads_as_something_else_are_to_be_quoted(write, changes: dict) -> None:
    with pytest.raises(ValueError, match=r"key '.*; in quotation marks yes, no, numbers and dates are text in YAML"):
        file_task(write(CAPITALS, **changes))


@pytest.mark.parametrize("labels", [{"new": "("}, {"other": "x"}, {}, {"new": 3}, "new"])
def test_labels_that_cannot_be_read_are_refused(write, labels: object) -> None:
    with pytest.raises(ValueError, match=r"my_task\.yaml: key 'parse"):
        file_task(write(CAPITALS, parse={"labels": labels}))


def test_prompts_alone_with_their_kind(write) -> None:
    task = file_task(write(CAPITALS, completion=None, kind="{{ 'neutral' if capital == 'Paris' else 'helpful' }}"))
    rows = load_task(task, require_completion=False)
    assert rows.column_names == ["prompt", "kind", "row"]
    assert rows["kind"] == ["neutral"]
    with pytest.raises(ValueError, match="prompts alone serve only as a forgetting task"):
        load_task(task)


def test_a_kind_that_there_is_not_names_the_row(write) -> None:
    with pytest.raises(ValueError, match=r"train\.jsonl:1: kind='bad' must be one of conflicting, helpful, neutral"):
        load_task(file_task(write(CAPITALS, kind="bad")))


@pytest.mark.parametrize("key", ["answer", "old_answer"])
def test_an_answer_without_a_completion_is_refused(write, key: str) -> None:
    with pytest.raises(ValueError, match=f"key '{key}' .*: it needs a completion"):
        file_task(write(CAPITALS, **{"completion": None, key: "x"}))
