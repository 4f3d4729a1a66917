"""The common form of multiple-choice questions.

    prompt      "Question: Which gas do plants take in?\\nA. oxygen\\nB. carbon dioxide\\nAnswer:"
    completion  " B. carbon dioxide"
    answer      "B"
    choices     [" A. oxygen", " B. carbon dioxide"]

The completion holds the option's text as well as its letter, so that its loss measures knowledge of the content and
not of one token. White space inside question and options (some sources have stray tabs and line ends) becomes one
space.

The same question in cloze form shows no options, so that an answer is its text alone:

    prompt      "Question: Which gas do plants take in?\\nAnswer:"
    completion  " carbon dioxide"
    answer      "carbon dioxide"
    choices     [" oxygen", " carbon dioxide"]
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from graceful_forgetting.tasks.task import Row, Task, first_line, shown

LETTERS = "ABCDEFGHIJ"
# Full-width letters, digits and punctuation.
_PLAIN = {code + 0xFEE0: code for code in range(ord("!"), ord("~") + 1)}


@cache
def letter_parser(letters: str) -> Callable[[str], str | None]:
    """Reads the option letter, one of `letters` (such as 'ABCD'), that opens a text (' B', '(B) ...', 'B. ...'), else
    the first one that is stated ('the answer is B', 'Answer: B'), else none.

    A letter is none where it is an article or a pronoun ('Answer: A tooth'), one of several ('A or B'), or said to be
    wrong ('Answer A is wrong'); where another is said to be right instead ('A. is wrong, it is B'), that one is read.
    """
    several = rf"[)\]*\"]*\s*(?:,|/|&|\b(?:or|and)\b)\s*(?:option\s+)?[(\[*\"]*[{letters}](?![\w'])"
    wrong = r"\b(?:is|was|are)\s+(?:not|wrong|incorrect|false|never)\b|\b(?:isn't|isn’t|wasn't|cannot|can't)\b"
    denied = rf"[)\]*\"]*\s*(?:{wrong})"
    opening, alone = r"(?:\\?[(\[*{\"`$]|\\(?:boxed|text|textbf|mathrm)\{)*", rf"(?!{several}|{denied})"
    # A letter that opens the text counts if punctuation or the end of a line follows: 'A tooth' is no answer.
    leading = re.compile(
        rf"\s*(?:(?i:option|choice)\s+)?{opening}(?P<letter>[{letters}]){alone}"
        r"(?:[.):;,\]*}\"`$]|\s+[-–—]\s|\s+is\s+(?:the\s+)?(?:correct|right|answer)\b|\s*$|\s*\n)"
    )
    # A and I are words as well: after 'answer is' they count before punctuation, an end, or a reason.
    ends = r"(?=[.):;,\]*}\"`$!]|\s*$|\s*\n|\s+[-–—(]|\s+(?:because|since|as|due|for|which|with)\b)"
    stated = re.compile(
        r"\b(?i:answer)(?:\s+(?i:choice|option))?"
        r"(?:(?P<said>\s+(?:is|was|would\s+be|must\s+be|should\s+be)\b\s*:?|\s*[:=])|\s)"
        rf"\s*[*_]*\s*(?:(?i:option|choice)\s+)?{opening}(?P<letter>[{letters}])(?![\w'’]){alone}"
        rf"(?:{ends}|(?<![AI])(?(said)|(?!)))"
    )
    # An option may itself begin with 'is wrong': only what is said to be right in its place makes it a denial.
    corrected = re.compile(
        rf"(?<![\w'’])(?P<denied>[{letters}])[.:)\]*\"]*\s*(?:{wrong})[^\n]*?"
        rf"(?:\b(?i:it)(?:\s+is|['’]s)\s*:?\s*(?:(?i:option|choice)\s+)?{opening}(?P<it>[{letters}])(?![\w'’]){alone}{ends}"
        rf"|(?<![\w'’])(?P<right>[{letters}])\)?\s+is\s+(?:the\s+)?(?:correct|right)\b)"
    )

    def parse(text: str) -> str | None:
        text = text.translate(_PLAIN)
        match = leading.match(text) or stated.search(text)
        letter = match.group("letter") if match else None
        instead = corrected.search(text)
        if instead is not None and letter in (None, instead["denied"]):
            return instead["it"] or instead["right"]
        return letter

    return parse


def lettered(options: Sequence[str]) -> list[str]:
    """'A. <option>', 'B. <option>', ...; raises `ValueError` where there are fewer than 2 or more than 10."""
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options: a multiple-choice question has 2 to {len(LETTERS)}")
    return [f"{letter}. {_one_line(option)}" for letter, option in zip(LETTERS, options, strict=False)]


def choice_row(question: Any, options: Any, right: Any, right_column: str) -> dict[str, Any]:
    """The question in the form of this module.

    Args:
        question: its text.
        options: the texts of all options.
        right: number of the right one, from 0.
        right_column: the column that it comes from, for messages.

    Raises:
        ValueError: something else than that.
    """
    if not isinstance(question, str):
        raise ValueError(f"question={shown(question)} is not text")
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options={shown(options)} is not a list of texts")
    lines = lettered(options)
    # bool is an int in Python, and JSON's true must not pass for option B.
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(lines):
        raise ValueError(f"{right_column}={shown(right)} is not an option number from 0 to {len(lines) - 1}")
    return {
        "prompt": "\n".join([f"Question: {_one_line(question)}", *lines, "Answer:"]),
        "completion": f" {lines[right]}",
        "answer": LETTERS[right],
        "choices": [f" {line}" for line in lines],
    }


def keyed_row(row: Row, question_column: str) -> dict[str, Any]:
    """A row of the AI2 data sets (ARC, OpenBookQA, QASC): `choices` with `text` and `label`, and `answerKey`.

    Labels may be letters or digits; the prompt has letters. Raises `ValueError` where the key is no label.
    """
    choices, key = row["choices"], row["answerKey"]
    if not isinstance(choices, dict) or not {"text", "label"} <= set(choices):
        raise ValueError(f"choices={shown(choices)} has no 'text' and 'label'")
    labels = list(choices["label"])
    if key not in labels:
        raise ValueError(f"answerKey={shown(key)} is none of the labels {', '.join(labels)}")
    return choice_row(row[question_column], choices["text"], labels.index(key), "answerKey")


def cloze_task(task: Task) -> Task:
    """A task of lettered questions in cloze form, named `cloze:<task>`; its rows are those of `task`.

    A generated answer is right if its first line is the right option. Options are long, and few models give one word
    for word: compare likelihoods, per byte where the options differ in length.
    """
    return replace(
        task,
        name=f"cloze:{task.name}",
        description=f"{task.description}, which the prompt does not show",
        format_row=lambda row: _without_options(task.format_row(row)),
        parse_answer=first_line,
        metric="exact_match",
    )


def _without_options(row: dict[str, Any]) -> dict[str, Any]:
    texts = {line: line.split(". ", 1)[1] for line in row["choices"]}
    if not all(texts.values()):
        raise ValueError(
            f"options={shown(list(texts.values()))} has an empty text, which cannot be an answer in cloze form"
        )
    question, right = row["prompt"].split("\n", 1)[0], texts[row["completion"]]
    return {
        "prompt": f"{question}\nAnswer:",
        "completion": f" {right}",
        "answer": right,
        "choices": [f" {text}" for text in texts.values()],
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())
