"""The common form of multiple-choice questions.

    prompt      "Question: Which gas do plants take in?\\nA. oxygen\\nB. carbon dioxide\\nAnswer:"
    completion  " B. carbon dioxide"
    answer      "B"
    choices     [" A. oxygen", " B. carbon dioxide"]

The completion holds the option's text as well as its letter, so that its loss measures knowledge of the content and
not of one token. White space inside question and options (some sources have stray tabs and line ends) becomes one
space.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from graceful_forgetting.tasks.task import Row

LETTERS = "ABCDEFGHIJ"


@cache
def letter_parser(letters: str) -> Callable[[str], str | None]:
    """Reads the option letter, one of `letters` (such as 'ABCD'), that opens a text (' B', '(B) ...', 'B. ...'), else
    the one after 'answer is', else none.
    """
    # A letter that opens the text counts if punctuation or the end of a line follows: 'A tooth' is no answer.
    leading = re.compile(rf"\s*[(\[*]*([{letters}])(?:[.):,\]*]|\s*$|\s*\n)")
    stated = re.compile(rf"\b(?i:answer)(?:\s+is\b)?:?\s*(?:option\s+)?[(\[*]*([{letters}])\b(?!')")

    def parse(text: str) -> str | None:
        match = leading.match(text) or stated.search(text)
        return match.group(1) if match else None

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
        raise ValueError(f"question={question!r} is not text")
    if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options={options!r} is not a list of texts")
    lines = lettered(options)
    # bool is an int in Python, and JSON's true must not pass for option B.
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(lines):
        raise ValueError(f"{right_column}={right!r} is not an option number from 0 to {len(lines) - 1}")
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
        raise ValueError(f"choices={choices!r} has no 'text' and 'label'")
    labels = list(choices["label"])
    if key not in labels:
        raise ValueError(f"answerKey={key!r} is none of the labels {', '.join(labels)}")
    return choice_row(row[question_column], choices["text"], labels.index(key), "answerKey")


def _one_line(text: str) -> str:
    return " ".join(text.split())
