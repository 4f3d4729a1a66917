"""Tables as text: in Markdown, and with aligned columns for a terminal."""

from collections.abc import Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], note: str = "", rule: str = "---") -> str:
    """GitHub's form; `note` stands under the table, `rule` is a cell of the line under the heads."""
    lines = [_markdown_row(columns), f"|{'|'.join([rule] * len(columns))}|", *map(_markdown_row, rows)]
    return "\n".join([*lines, *(["", note] if note else [])])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def aligned(rows: Sequence[Sequence[str]], ruled: bool = False) -> str:
    """A line a row, cells two spaces apart; `ruled`: numbers flush right, and a line under the heads.

    A row with fewer cells than the first, such as a name and why nothing was measured, widens no column.
    """
    widths = [max(map(len, column)) for column in zip(*(r for r in rows if len(r) == len(rows[0])), strict=True)]
    lines = ["  ".join(_padded(row, widths, ruled)).rstrip() for row in rows]
    rule = ["  ".join("-" * width for width in widths)] if ruled else []
    return "\n".join([lines[0], *rule, *lines[1:]])


def _padded(row: Sequence[str], widths: Sequence[int], right: bool) -> list[str]:
    cells = enumerate(zip(row, widths, strict=False))
    return [cell.rjust(width) if right and place else cell.ljust(width) for place, (cell, width) in cells]
