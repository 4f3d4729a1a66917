"""SST-5 (Socher et al., EMNLP 2013): the sentiment of a sentence of a film review, in five grades.

    prompt      "Review: no movement , no yuks , not much of anything .\\nSentiment:"
    completion  " negative"
    answer      "negative"
    choices     [" very negative", " negative", " neutral", " positive", " very positive"]

No rows are vendored: nobody states the licence of the Stanford Sentiment Treebank.
"""

import re
from typing import Any

from graceful_forgetting.tasks.task import Row, Task, text_of

LABELS = ("very negative", "negative", "neutral", "positive", "very positive")
_LABEL = re.compile(r"\b(very negative|negative|neutral|very positive|positive)\b")


def parse_label(text: str) -> str | None:
    """The first of the five labels that the first line of `text` names, in any case; none without one."""
    match = _LABEL.search(text.strip().split("\n", 1)[0].lower())
    return match.group(1) if match else None


def _format(row: Row) -> dict[str, Any]:
    label = row["label"]
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(LABELS):
        raise ValueError(f"label={label!r} is not a number from 0 to {len(LABELS) - 1}")
    return {
        "prompt": f"Review: {text_of(row, 'text').strip()}\nSentiment:",
        "completion": f" {LABELS[label]}",
        "answer": LABELS[label],
        "choices": [f" {name}" for name in LABELS],
    }


SST5 = Task(
    name="sst5",
    description="sentiment of film review sentences in five grades",
    licence="not stated",
    hub_id="SetFit/sst5",
    splits={"train": "train", "test": "test"},
    columns=("text", "label"),
    format_row=_format,
    parse_answer=parse_label,
    metric="accuracy",
)
