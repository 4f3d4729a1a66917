"""GSM8K: grade-school arithmetic word problems (Cobbe et al., arXiv 2110.14168).

A row becomes

    prompt      "Question: Weng earns $12 an hour ...\\nAnswer:"
    completion  " Weng earns 12/60 = $0.2 per minute.\\n...\\n#### 10"
    answer      "10"

The data set's calculator annotations (`<<12/60=0.2>>`, meant for a tool that fills in results while sampling)
are removed from the completion: no calculator runs here, and without them the completion is plain text.
"""

import re
from decimal import Decimal

from graceful_forgetting.tasks.task import Row, Task, text_of

_ANNOTATION = re.compile(r"<<[^<>]*>>")
# The sign counts only where it cannot be the minus of a subtraction such as 5-3.
_NUMBER = re.compile(r"((?<![\w)])-)?\$?(\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(\.\d+)?")
_MARKER = "####"
# What a base model writes after its answer: the next problem in the form of the prompt.
_NEXT_PROMPT = "\nQuestion:"


def _numbers(text: str) -> list[str]:
    """The numbers in `text`, in order and in one form: no $, no commas, no trailing zeros after the point."""
    numbers = []
    for match in _NUMBER.finditer(text):
        sign, whole, fraction = match.groups()
        if whole is None and fraction is None:
            continue
        value = Decimal(f"{sign or ''}{(whole or '0').replace(',', '')}{fraction or ''}")
        # Adding 0 turns -0 into 0.
        plain = f"{value + 0:f}"
        numbers.append(plain.rstrip("0").rstrip(".") if "." in plain else plain)
    return numbers


def parse_number(text: str) -> str | None:
    """The number after the last '####', else the last number of `text`, else none.

    Text from the next 'Question:' line on is not read. '$1,080.00' and '1080' are the same answer, '1080'.
    """
    own = text.split(_NEXT_PROMPT, 1)[0]
    if _MARKER in own:
        marked = _numbers(own.rsplit(_MARKER, 1)[1])
        if marked:
            return marked[0]
    numbers = _numbers(own)
    return numbers[-1] if numbers else None


def _format(row: Row) -> dict[str, str]:
    solution = _ANNOTATION.sub("", text_of(row, "answer")).strip()
    reference = solution.rsplit(_MARKER, 1)
    if len(reference) < 2 or not _numbers(reference[1]):
        raise ValueError("answer has no number after '####'")
    return {
        "prompt": f"Question: {text_of(row, 'question').strip()}\nAnswer:",
        "completion": f" {solution}",
        "answer": _numbers(reference[1])[0],
    }


GSM8K = Task(
    name="gsm8k",
    description="grade-school arithmetic word problems, answered with worked steps",
    licence="MIT",
    hub_id="openai/gsm8k",
    hub_configs=("main",),
    splits={"train": "train", "test": "test"},
    columns=("question", "answer"),
    format_row=_format,
    parse_answer=parse_number,
    metric="exact_match",
)
