"""Which answers of the stored evaluations differ between plain fine-tuning and the method, and which is better."""

from types import SimpleNamespace

import pytest
from datasets import Dataset

from graceful_forgetting.runs.changed_answers import SHOWN, TOLD, WIDTH, answers_text, changed_answers
from graceful_forgetting.runtime.artifacts import write_json


@pytest.fixture
def changed(tmp_path):
    """Calls `changed_answers` on a run with these test rows and these items of both arms."""

    def call(rows, plain, own):
        for arm, items in (("plain", plain), ("lwf", own)):
            write_json(tmp_path / arm / "items.json", {"colours": {"choice_correct": None, "generated": None, **items}})
        pipeline = SimpleNamespace(
            seeds=[7, 8],
            evaluation=lambda arm, seed: SimpleNamespace(path=tmp_path / arm) if seed == 7 else None,
            inputs=SimpleNamespace(test_sets={"colours": (Dataset.from_list(rows), "learning", None)}),
        )
        return changed_answers(pipeline)

    return call


def test_generated_answers_are_told_apart_by_their_text_and_judged_by_their_score(changed):
    rows = [{"prompt": f"Colour of {thing}?", "completion": " red"} for thing in "abcd"]
    plain = {"generated": [" red", "blue", "blue", " red "], "score": [1, 0, 0, 1]}
    own = {"generated": ["green", "green", "red", "red"], "score": [0, 0, 1, 1]}
    (found,) = changed(rows, plain, own)
    assert (found.task, found.role, found.seed, found.total) == ("colours", "learning", 7, 4)
    assert found.counts == {"better": 1, "worse": 1, "neither": 1}
    shown = [(row.prompt, row.plain, row.own, row.right, row.change) for row in found.rows]
    assert shown == [
        ("Colour of c?", "blue", "red", "red", "better"),
        ("Colour of a?", "red", "green", "red", "worse"),
        ("Colour of b?", "blue", "green", "red", "neither"),
    ]


def test_without_generated_answers_the_likeliest_option_a_byte_is_the_answer(changed):
    rows = [{"prompt": "Which?", "completion": " long option", "choices": [" no", " long option"]}]
    items = {"choice_correct": [False], "choice_log_likelihoods": [[-3.0, -18.0]]}
    # −3 / 3 bytes against −18 / 12 bytes, and −3 / 3 against −6 / 12.
    other = {"choice_correct": [True], "choice_log_likelihoods": [[-3.0, -6.0]]}
    ((row,),) = (found.rows for found in changed(rows, items, other))
    assert (row.plain, row.own, row.change) == ("no", "long option", "better")


def test_rows_of_each_kind_are_bounded_and_all_are_counted(changed):
    rows = [{"prompt": str(number), "completion": "y"} for number in range(40)]
    (found,) = changed(rows, {"generated": ["x"] * 40, "score": [0] * 40}, {"generated": ["y"] * 40, "score": [1] * 40})
    assert (found.counts["better"], len(found.rows)) == (40, SHOWN["better"])


def test_an_answer_that_is_the_old_one_is_marked(changed):
    rows = [{"prompt": f"Colour of {thing}?", "completion": " red"} for thing in "ab"]
    plain = {"generated": ["blue", "blue"], "score": [0, 0], "old": [True, True]}
    own = {"generated": ["green", "red"], "score": [0, 1], "old": None}
    found = changed(rows, plain, own)
    assert [(row.plain_is_old, row.own_is_old) for row in found[0].rows] == [(True, False)] * 2
    lines = answers_text(found, "LWF").splitlines()
    assert lines[3:6] == ["  plain     blue (old)", "  LWF       red", "  right     red"]


def test_a_task_without_answers_has_none(changed):
    assert changed([{"prompt": "a", "completion": "b"}], {}, {}) == []


def test_a_terminal_shows_a_few_answers_of_the_learning_task_side_by_side(changed):
    long = "x" * 300
    rows = [{"prompt": [{"role": "user", "content": f"{long}\nWhich \x1b[31mred?"}], "completion": " y"}] * 5
    found = changed(
        rows, {"generated": ["n"] * 5, "score": [0] * 5}, {"generated": ["y"] * 4 + ["n"], "score": [1] * 4 + [0]}
    )
    lines = answers_text(found, "interference").splitlines()
    assert lines[0] == "Answers to colours, seed 7: interference answers 4 of 5 better than plain, 0 worse"
    assert len(lines) == 1 + 5 * TOLD
    assert lines[2].startswith("  question      …xx")
    assert lines[2].endswith("x Which [31mred?")
    assert len(lines[2]) == len("  question      ") + WIDTH
    assert lines[3:6] == ["  plain         n", "  interference  y", "  right         y"]
    assert "\x1b" not in "".join(lines)


def test_a_terminal_shows_nothing_where_no_answer_changed(changed):
    same = {"generated": ["n"], "score": [0]}
    assert answers_text(changed([{"prompt": "a", "completion": "b"}], same, same), "LWF") == ""
    assert answers_text([], "LWF") == ""
