"""How long the sentences of a Markdown page are.

    python docs/sentences.py README.md docs/*.md

Counted is prose: no code blocks, tables, headings, pictures, comments, or targets of links. Inline code is one word.
What does not end like a sentence, as an entry of a list of links, is left out.
"""

import re
import sys
from pathlib import Path
from statistics import fmean

_LEFT_OUT = (
    r"^( *)(```+)(?s:.*?)^\1\2 *$",  # code blocks
    r"<!--(?s:.*?)-->",
    r"^ *> ?",
    r"^ *\|.*$",  # tables
    r"^#.*$",
    r"^ *--8<--.*$",
    r"^ {4,}\S.*[=≈].*$",  # formulas
    r"^(!!!|\?\?\?).*$",
    r"!\[[^\]]*\]\([^)]*\)",
)


def sentences(markdown: str) -> list[str]:
    """The sentences of a page, in order, without markup."""
    for pattern in _LEFT_OUT:
        markdown = re.sub(pattern, "", markdown, flags=re.MULTILINE)
    markdown = re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\][(\[][^)\]]*[)\]]", r"\1", markdown)
    markdown = re.sub(r"<[^>\n]+>", "", re.sub(r"`[^`]+`", "Code", markdown))
    markdown = re.sub(r"^ *([-*]|\d+\.) +", "\n\n", markdown, flags=re.MULTILINE)
    found = []
    for paragraph in re.split(r"\n\s*\n", markdown.replace("**", "").replace("*", "")):
        pieces = re.split(r"(?<=[.!?])[)\"]?\s+(?=[^a-z\s])", " ".join(paragraph.split()))
        found += [piece for piece in pieces if re.search(r"[.!?:][)\"]?$", piece) and words(piece)]
    return found


def words(sentence: str) -> int:
    """How many words a sentence has; signs alone are none."""
    return sum(any(character.isalnum() for character in word) for word in sentence.split())


def mean_length(markdown: str) -> float:
    """Words a sentence, in the mean."""
    return fmean(words(sentence) for sentence in sentences(markdown))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        text = Path(name).read_text(encoding="utf-8")
        print(f"{name}: {mean_length(text):.1f} words a sentence, {len(sentences(text))} sentences")
