"""Which texts share a run of words with test rows, so that no test row is trained on.

The measure of GPT-3's report (Brown et al., arXiv 2005.14165, appendix C): a run of 13 words, lower case, without
punctuation. A test row of fewer words counts as shared where a text has the same words and no others.
"""

import re
from collections.abc import Iterable

NGRAM_WORDS = 13
_WORD = re.compile(r"\w+")


class HeldOutRows:
    """The runs of words of test rows.

    Args:
        texts: one a row.
    """

    def __init__(self, texts: Iterable[str]):
        # Hashes in place of the words: a million runs fit into memory, and 64 bits do not collide.
        self._rows_of: dict[int, list[int]] = {}
        self.count = 0
        for text in texts:
            for run in _runs(text):
                self._rows_of.setdefault(run, []).append(self.count)
            self.count += 1

    def shared_with(self, text: str) -> set[int]:
        """Numbers (from 0) of the test rows that share a run of words with `text`."""
        return {row for run in _runs(text) if run in self._rows_of for row in self._rows_of[run]}


def _runs(text: str) -> set[int]:
    words = _WORD.findall(text.lower())
    if len(words) < NGRAM_WORDS:
        return {hash(tuple(words))}
    return {hash(tuple(words[start : start + NGRAM_WORDS])) for start in range(len(words) - NGRAM_WORDS + 1)}
