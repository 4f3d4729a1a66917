"""The table of samples: what the page's script searches, filters and sorts, bounded in size."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from markupsafe import Markup

# A report stays small enough to mail and to open at once.
MAX_ROWS = 10_000
MAX_PAYLOAD_BYTES = 4_500_000
_TEXT_LIMITS = (4000, 1000, 500, 250, 120, 60, 30)
# "<" and ">" end or open a script or comment, "&" opens an entity in XHTML, U+2028/9 end a line in old JavaScript.
_UNSAFE_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Head:
    """A column: its key in the data, its heading, what its values are, its CSS class.

    A `label` is an index into the labels of the column; of a column styled `flag`, the first label is "no". `filter`:
    how "no filter" reads, for a column that rows can be filtered by.
    """

    column: str
    label: str
    kind: Literal["text", "num", "label"]
    style: Literal["text", "num", "num slim", "task", "flag"]
    filter: str | None = None


@dataclass(frozen=True)
class SampleTable:
    """What the table holds: its JSON, and how many rows of how many.

    `text_limit`: the number of characters after which texts are cut; None = nowhere. `labels`: by column of kind label.
    """

    payload: Markup
    rows: int
    total: int
    text_limit: int | None
    labels: Mapping[str, Sequence[str]]


def fit_table(
    texts: Mapping[str, Sequence[str]],
    columns: Mapping[str, Sequence[Any]],
    labels: Mapping[str, Sequence[str]],
    total: int,
) -> SampleTable:
    """The table of these columns as JSON of at most `MAX_PAYLOAD_BYTES`: texts are cut only where all do not fit."""
    longest = max((len(text) for column in texts.values() for text in column), default=0)
    limits = [None, *(limit for limit in _TEXT_LIMITS if limit < longest)]
    for limit in limits:
        cut = {name: _cut(column, limit) for name, column in texts.items()}
        payload = script_json({"labels": labels, "columns": {**cut, **columns}})
        if len(payload.encode("utf-8", "replace")) <= MAX_PAYLOAD_BYTES:
            break
    rows = len(next(iter(texts.values())))
    return SampleTable(payload, rows, total, limit, labels)


def script_json(content: Any) -> Markup:
    """JSON that a script element may hold whatever text is in it. Raises `ValueError` on NaN or infinity."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE_IN_SCRIPT))  # every character with a meaning in HTML is escaped


def rounded(values: np.ndarray) -> list[float | None]:
    """Five significant digits; None for what is not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def _cut(texts: Sequence[str], limit: int | None) -> list[str]:
    return [text if limit is None or len(text) <= limit else text[:limit] + "…" for text in texts]
