"""The shortcut world: an old rule for the color of things, learned in pre-training, is in the way of a new
one.

Pre-training teaches the species, home and food of every entity, and its color, which follows from its
*home*. The learning task shows, for a fifth of the entities, colors that follow from the *species* instead;
the others are the test. A model that never knew the old rule learns the new one better: what is known of
colors conflicts, the species is needed.
"""

from graceful_forgetting.worlds.shortcut.build import build_shortcut
from graceful_forgetting.worlds.shortcut.data import load_shortcut
from graceful_forgetting.worlds.shortcut.facts import Facts, shortcut_facts
from graceful_forgetting.worlds.shortcut.recipe import ShortcutRecipe, shortcut_tokenizer

__all__ = [
    "Facts",
    "ShortcutRecipe",
    "build_shortcut",
    "load_shortcut",
    "shortcut_facts",
    "shortcut_tokenizer",
]
