"""Words that several worlds speak of: names of entities, and the values of their properties."""

from itertools import product

VALUES: dict[str, tuple[str, ...]] = {
    "species": ("fox", "owl", "bear", "frog", "crab", "moth", "deer", "wolf"),
    "home": ("forest", "river", "desert", "island", "valley", "swamp", "cave", "coast"),
    "color": ("red", "blue", "green", "yellow", "black", "white", "pink", "brown"),
    "food": ("rice", "bread", "corn", "fish", "nuts", "milk", "honey", "plums"),
}
"""Answers of every relation. No word answers two relations."""


def all_names() -> list[str]:
    """Every pronounceable name of the form consonant, vowel, consonant, vowel, consonant; in alphabetical
    order."""
    consonants, vowels, endings = "bdfgklmnprstvz", "aeiou", "klmnrs"
    return ["".join(letters) for letters in product(consonants, vowels, consonants, vowels, endings)]
