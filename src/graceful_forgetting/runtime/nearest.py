"""The names that somebody may have meant by one that is not known."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", most: int = 1) -> str:
    """ "did you mean 'arc_easy'? ", or `otherwise` where nothing is near; of `most` above 1, less near ones too."""
    near = get_close_matches(name, known, n=most, cutoff=0.6 if most == 1 else 0.4)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else otherwise
