"""Ways to read an answer out of generated text, by the names that YAML tasks use."""

import re
from collections.abc import Callable

from graceful_forgetting.tasks.gsm8k import parse_number
from graceful_forgetting.tasks.multiple_choice import LETTERS, letter_parser
from graceful_forgetting.tasks.task import first_line

Parser = Callable[[str], str | None]


def whole_text(text: str) -> str | None:
    """`text` without white space around it; none if nothing is left."""
    return text.strip() or None


PARSERS: dict[str, Parser] = {
    "exact": whole_text,
    "first_line": first_line,
    "first_letter": letter_parser(LETTERS),
    "last_number": parse_number,
}


def regex_parser(pattern: str) -> Parser:
    """Reads the first match of `pattern`: its first group, or all of it without a group.

    Raises `re.error` where the pattern is not valid.
    """
    compiled = re.compile(pattern)

    def parse(text: str) -> str | None:
        match = compiled.search(text)
        if match is None:
            return None
        found = match.group(1) if compiled.groups else match.group()
        return found.strip() or None if found is not None else None

    return parse
