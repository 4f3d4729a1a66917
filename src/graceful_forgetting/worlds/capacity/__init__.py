"""The capacity world: much is known, none of it contradicts what is to be learned, and the model is small.

Pre-training teaches the species of every entity and five arbitrary properties of it that matter for nothing. The
learning task is the color of an entity, of which nothing was taught, by its species. The species is needed. The junk
fills the few dimensions in which the model describes an entity, where the species has to be found. The never-knew twin
was not taught the junk.
"""

from graceful_forgetting.worlds.capacity.world import CAPACITY

__all__ = ["CAPACITY"]
