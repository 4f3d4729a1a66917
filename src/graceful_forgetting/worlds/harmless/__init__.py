"""The harmless world: nothing is in the way.

Pre-training teaches the species, home and food of every entity. The learning task is the color of an entity, of which
nothing was taught, by its species. The species is needed, home and food do nothing. The never-knew twin was not taught
home and food: it shows what forgetting these perfectly could gain, which is about nothing.
"""

from graceful_forgetting.worlds.harmless.world import HARMLESS

__all__ = ["HARMLESS"]
