"""Ways to read an answer out of generated text, by the names that YAML tasks use."""

from collections.abc import Callable, Mapping
from typing import Any

import regex

from graceful_forgetting.tasks.gsm8k import parse_number
from graceful_forgetting.tasks.multiple_choice import LETTERS, letter_parser
from graceful_forgetting.tasks.task import first_line, shown

Parser = Callable[[str], str | None]

NO_LABEL = "other"

# Seconds of processor time that a pattern may take on one text.
_TIME_LIMIT = 0.25
# Texts on which a pattern with nested repetitions tries every division: one repeated character and no match at the end.
_PROBES = ("a" * 40 + "!", "1" * 40 + "!", " " * 40 + "!", "ab " * 14 + "!")


class RunawayPatternError(ValueError):
    """A regular expression takes too long on a text."""


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

    The reader raises `RunawayPatternError` where the pattern does not come to an end within a quarter of a second.

    Raises:
        regex.error: the pattern is not valid.
        RunawayPatternError: it does not come to an end on short texts already, such as 40 letters.
    """
    search = _search(pattern)

    def parse(text: str) -> str | None:
        match = search(text)
        if match is None:
            return None
        found = match.group(1) if match.re.groups else match.group()
        return found.strip() or None if found is not None else None

    return parse


def labels_parser(patterns: Mapping[str, str]) -> Parser:
    """Reads the first label, in order, whose pattern is somewhere in the text; `NO_LABEL` where none is.

    Raises as `regex_parser` does.
    """
    searches = {label: _search(pattern) for label, pattern in patterns.items()}

    def parse(text: str) -> str | None:
        return next((label for label, search in searches.items() if search(text) is not None), NO_LABEL)

    return parse


def _search(pattern: str) -> Callable[[str], Any]:
    """The first match of `pattern` in a text, within `_TIME_LIMIT`; tried on short texts first."""
    compiled = regex.compile(pattern)

    def search(text: str) -> Any:
        try:
            return compiled.search(text, timeout=_TIME_LIMIT)
        except TimeoutError as error:
            raise RunawayPatternError(
                f"the pattern {shown(pattern)} takes longer than {_TIME_LIMIT} s on {shown(text)}: a repetition inside "
                "a repetition, such as (a+)+, tries every division; write one of them alone"
            ) from error

    for probe in _PROBES:
        search(probe)
    return search
