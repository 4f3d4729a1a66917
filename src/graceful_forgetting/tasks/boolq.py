"""BoolQ (Clark et al., NAACL 2019, arXiv 1905.10044) as a closed book: yes/no questions, answered without the passage.

prompt      "Question: does ethanol take more energy make that produces?\\nAnswer:"
completion  " no"
answer      "no"
choices     [" no", " yes"]
"""

import re
from typing import Any

from graceful_forgetting.tasks.task import Row, Task, text_of

_OPENING = re.compile(r"\W*(yes|no|true|false)\b", re.IGNORECASE)
_ANSWERS = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}


def parse_yes_or_no(text: str) -> str | None:
    """'yes' or 'no', where the text opens with it (or with 'true', 'false'); else none."""
    match = _OPENING.match(text)
    return _ANSWERS[match.group(1).lower()] if match else None


def _format(row: Row) -> dict[str, Any]:
    if not isinstance(row["answer"], bool):
        raise ValueError(f"answer={row['answer']!r} is not true or false")
    answer = "yes" if row["answer"] else "no"
    question = text_of(row, "question").strip().rstrip("?")
    return {
        "prompt": f"Question: {question}?\nAnswer:",
        "completion": f" {answer}",
        "answer": answer,
        "choices": [" no", " yes"],
    }


BOOLQ_CLOSED_BOOK = Task(
    name="boolq_closed_book",
    description="yes/no questions of web searches, without the passage that answers them",
    licence="CC BY-SA 3.0",
    hub_id="google/boolq",
    splits={"train": "train", "test": "validation"},
    columns=("question", "answer"),
    format_row=_format,
    parse_answer=parse_yes_or_no,
    metric="accuracy",
)
