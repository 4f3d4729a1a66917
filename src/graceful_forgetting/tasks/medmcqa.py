"""MedMCQA (Pal et al., CHIL 2022): four-option questions of medical entrance exams; here its Dental subject.

A row becomes

    prompt      "Question: Cumulative index is:\\nA. PMA\\nB. ...\\nC. ...\\nD. ...\\nAnswer:"
    completion  " A. PMA"
    answer      "A"

The completion holds the option's text as well as its letter, so that its loss measures knowledge of the
content and not of one token. White space inside question and options (the source has stray tabs and line
ends) becomes one space.

The hub's test split has no answers (`cop` = -1): the task's test split is the hub's `validation`.
"""

import re

from graceful_forgetting.tasks.task import Row, Task, text_of

LETTERS = ("A", "B", "C", "D")
_OPTIONS = ("opa", "opb", "opc", "opd")
# A letter that opens the text counts if punctuation or the end of a line follows: 'A tooth' is no answer.
_LEADING = re.compile(r"\s*[(\[*]*([A-D])(?:[.):,\]*]|\s*$|\s*\n)")
_STATED = re.compile(r"\b(?i:answer)(?:\s+is\b)?:?\s*(?:option\s+)?[(\[*]*([A-D])\b(?!')")


def _one_line(row: Row, column: str) -> str:
    return " ".join(text_of(row, column).split())


def parse_letter(text: str) -> str | None:
    """The option letter that opens `text` (' B', '(B) ...', 'B. ...'), else the one after 'answer is', else
    none.
    """
    match = _LEADING.match(text) or _STATED.search(text)
    return match.group(1) if match else None


def _format(row: Row) -> dict[str, str]:
    right = row["cop"]
    # bool is an int in Python, and JSON's true must not pass for option B.
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(LETTERS):
        raise ValueError(f"cop={right!r} is not an option number from 0 to 3")
    options = [_one_line(row, column) for column in _OPTIONS]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return {
        "prompt": "\n".join([f"Question: {_one_line(row, 'question')}", *lines, "Answer:"]),
        "completion": f" {lines[right]}",
        "answer": LETTERS[right],
    }


def _is_dental(row: Row) -> bool:
    return row["subject_name"] == "Dental"


DENTAL = Task(
    name="dental",
    description="dentistry questions of MedMCQA with four options",
    licence="MIT (repository), Apache-2.0 (hub card)",
    hub_id="openlifescienceai/medmcqa",
    splits={"train": "train", "test": "validation"},
    columns=("id", "question", *_OPTIONS, "cop", "subject_name"),
    format_row=_format,
    parse_answer=parse_letter,
    metric="accuracy",
    row_filter=_is_dental,
    id_column="id",
    choices=LETTERS,
)
