"""Generated answers that are what older knowledge says."""

from types import SimpleNamespace

from datasets import Dataset

from graceful_forgetting.evaluation.old_answers import gives_old_answer
from graceful_forgetting.tasks.answers import labels_parser


def rows(*old: str | None) -> Dataset:
    return Dataset.from_dict({"completion": [" red"] * len(old), "old_answer": list(old)})


def test_a_right_answer_and_one_without_an_old_one_are_never_old():
    asked = rows(" blue", " blue", " blue", None, " red")
    right = [True, False, False, False, True]
    assert gives_old_answer(["red", "blue ", "green", "blue", "red"], right, asked, None) == [
        False, True, False, False, False,
    ]  # fmt: skip


def test_nothing_is_said_where_no_row_has_an_old_answer():
    assert gives_old_answer(["a"], [True], Dataset.from_dict({"completion": ["a"]}), None) is None
    assert gives_old_answer(["a", "b"], [True, False], rows(None, None), None) is None


def test_answers_are_read_as_the_task_reads_them():
    parse = labels_parser({"new": "(?i)juniper", "old": "(?i)smol ?lm"})
    task = SimpleNamespace(name="identity", parse_answer=parse)
    asked = rows(*["I am SmolLM."] * 3)
    texts = ["They call me Smol LM!", "I am Juniper.", "I cannot say."]
    assert gives_old_answer(texts, [False, True, False], asked, task) == [True, False, False]


def test_what_cannot_be_read_is_not_the_old_answer():
    task = SimpleNamespace(name="digits", parse_answer=lambda text: text if text.isdigit() else None)
    assert gives_old_answer(["none", "3"], [False, False], rows("no digit", "3"), task) == [False, True]


def test_accents_and_the_end_of_the_turn_do_not_hide_an_old_answer():
    task = SimpleNamespace(name="words", parse_answer=str.strip)
    reader = SimpleNamespace(reference=lambda text: text.removesuffix("<|im_end|>"))
    apart, whole = "cafe\u0301", "caf\u00e9"
    assert gives_old_answer([apart], [False], rows(f"{whole}<|im_end|>"), task, reader) == [True]
