"""Writes docs/figures/layout.svg: the rooms of the package and what each imports, read from its code.

    python docs/make_layout.py          write the picture
    python docs/make_layout.py --check  exit with 1 if that would change it

Which rooms there are, and in which order, is said once: by the tree in docs/layout.md. `tests/unit/test_layout.py`
takes it, and the way in which imports are read, from here.
"""

import ast
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "src" / "graceful_forgetting"
PICTURE = DOCS / "figures" / "layout.svg"
_TREE = (DOCS / "layout.md").read_text(encoding="utf-8").split("```text\nsrc/graceful_forgetting/\n")[1].split("```")[0]
# Room -> what it is, from the ground up: a room may import those before it.
ROOMS = dict(reversed(re.findall(r"^  (\w+)(?:/|\.py) +(\S.*)$", _TREE, flags=re.MULTILINE)))
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")

_ROW, _TOP, _LEFT, _BOX, _WIDTH = 34, 30, 6, 372, 490
_STYLE = """
svg { background: #fff; font: 13px system-ui, sans-serif; }
text { fill: #1b2330; } .what { fill: #566072; font-size: 11px; }
rect { fill: #f4f6f9; stroke: #c7cdd8; } .stage { fill: #efeafc; stroke: #6d4bc4; }
path { fill: none; stroke: #8a93a1; stroke-width: 1.2; } marker path { fill: #8a93a1; stroke: none; }
"""


def room_of(path: Path) -> str:
    """The room that a file is in."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are written in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def rooms_imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import from the package."""
    for line, name in imported(path):
        if name.split(".")[0] == "graceful_forgetting":
            yield line, name.split(".")[1] if "." in name else "the package itself"


def arrows() -> list[tuple[str, str]]:
    """(room, room that it imports), without those that others imply: a way through a third room says as much."""
    direct = {room: {other for path in FILES if room_of(path) == room for _, other in rooms_imported(path)} - {room}
              for room in ROOMS}  # fmt: skip
    reached: dict[str, set[str]] = {}
    for room in ROOMS:  # from the ground up, so that what is below is known
        reached[room] = direct[room].union(*(reached[other] for other in direct[room]))
    return [
        (room, other)
        for room in ROOMS
        for other in ROOMS
        if other in direct[room] and not any(other in reached[between] for between in direct[room])
    ]


def picture() -> str:
    """The rooms from top to bottom as in the tree, an arrow from each to what it imports."""
    middle = {room: _TOP + (row + 0.5) * _ROW for row, room in enumerate(reversed(ROOMS))}
    right = _LEFT + _BOX
    found = arrows()
    spoken = "; ".join(f"{room} imports {', '.join(o for r, o in found if r == room)}" for room in middle)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_TOP + _ROW * len(ROOMS) + 6}" role="img">',
        f"<title>The rooms of the package</title><desc>{escape(spoken)}</desc><style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z"/></marker></defs>',
        f'<text class="what" x="{_LEFT}" y="18">Arrows: imports, read from the code; each leads down. '
        "Violet: the stages of the method.</text>",
    ]
    for room, y in middle.items():
        kind = ' class="stage"' if re.match(r"\d ", ROOMS[room]) else ""
        parts.append(f'<rect{kind} x="{_LEFT}" y="{y - 13:g}" width="{_BOX}" height="26" rx="5"/>')
        parts.append(f'<text x="{_LEFT + 10}" y="{y + 4:g}">{room}</text>')
        parts.append(f'<text class="what" x="{_LEFT + 104}" y="{y + 4:g}">{escape(ROOMS[room])}</text>')
    for room, other in found:
        start, end = middle[room] + 5, middle[other] - 5
        aside = right + 14 + 0.8 * (end - start) ** 0.8
        parts.append(f'<path d="M{right} {start:g}C{aside:.1f} {start:g} {aside:.1f} {end:g} {right + 1} {end:g}" '
                     f'marker-end="url(#head)"><title>{room} imports {other}</title></path>')  # fmt: skip
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    text = picture()
    if "--check" in sys.argv[1:]:
        if not PICTURE.is_file() or PICTURE.read_text(encoding="utf-8") != text:
            sys.exit("docs/figures/layout.svg is out of date: python docs/make_layout.py")
    else:
        PICTURE.write_text(text, encoding="utf-8")
