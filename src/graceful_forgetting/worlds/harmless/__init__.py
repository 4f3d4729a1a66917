"""The harmless world: nothing is in the way.

Pre-training teaches the color of every entity in spring, summer and autumn, always the same one, its food and its
home. The learning task is the color in winter, of which nothing was taught: it is that of the other seasons. These are
needed; food and home do nothing. The never-knew twin was not taught food and home: it shows what forgetting these
perfectly could gain, which is about nothing.

It is the world `entangled` without its winter colors. A color that follows from the species, as in the world
`shortcut`, would not do: in some builds even homes and foods that matter for nothing are in the way of that.
"""

from graceful_forgetting.worlds.harmless.world import HARMLESS

__all__ = ["HARMLESS"]
