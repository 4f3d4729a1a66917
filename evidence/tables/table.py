"""The one table of docs/: rows, columns, and the text that stands where they meet."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from graceful_forgetting.results.text_tables import markdown_table

Row = TypeVar("Row")


def table(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]], note: str = "") -> str:
    """A Markdown table of a line for each of `rows`.

    Args:
        rows: whatever the columns read.
        columns: head of a column -> the text of a row in it.
        note: stands under the table.
    """
    return markdown_table(list(columns), [[text(row) for text in columns.values()] for row in rows], note)


def code(name: str) -> str:
    """A name as Markdown writes code."""
    return f"`{name}`"
