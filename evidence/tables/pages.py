"""Tables between markers in Markdown files, and whether the files are up to date."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from graceful_forgetting.runtime.artifacts import write_text


def filled(text: str, tables: Mapping[str, Callable[[], str]], kind: str = "table") -> str:
    """`text` with every table between `<!-- KIND: NAME -->` and `<!-- end -->` made anew.

    Raises:
        KeyError: a name that is not among `tables`.
    """

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]()}\n<!-- end -->"

    return re.sub(rf"(<!-- {kind}: ([\w-]+) -->)\n.*?<!-- end -->", made, text, flags=re.DOTALL)


def update(files: Mapping[Path, str], check: bool) -> int:
    """Write the texts that differ from their files and name these; with `check`, only name them and return 1."""
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if stale:
        print(f"{'out of date' if check else 'rewritten'}: {', '.join(path.name for path in stale)}")
    for path in () if check else stale:
        write_text(path, files[path])
    return int(bool(stale) and check)
