"""The shortcut world: an old rule for the color of things, learned in pre-training, is in the way of a new
one.

Pre-training teaches the species, home and food of every entity, and its color, which follows from its
*home*. The learning task shows, for a fifth of the entities, colors that follow from the *species* instead.
A model that never knew the old rule learns the new one better: what is known of colors conflicts, the
species is needed.
"""

from graceful_forgetting.worlds.shortcut.world import SHORTCUT

__all__ = ["SHORTCUT"]
