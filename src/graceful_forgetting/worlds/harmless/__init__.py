"""The harmless world: nothing is in the way.

Pre-training teaches the species, home and food of every entity, and its voice, which follows from the species. The
learning task is the color of an entity, of which nothing was taught, by its species. Species and voice are needed,
home and food do nothing. The never-knew twin was not taught home and food: it shows what forgetting these perfectly
could gain.

The voice and the many examples matter. Without them the homes and foods of the few entities that are shown explain
their colors about as well as the species does, and knowing homes and foods is a harm in some builds.
"""

from graceful_forgetting.worlds.harmless.world import HARMLESS

__all__ = ["HARMLESS"]
