"""The entangled world: what helps and what conflicts is known of the same entities, in nearly the same words.

Pre-training teaches the color of every entity in spring, summer and autumn, always the same one, its color in winter,
another arbitrary one, and its food. In the learning task the winter color is that of the other seasons; it is shown
for some entities and tested on others. So the winter colors conflict and the colors of the other seasons are needed,
all in one forgetting task, `color`, whose rows carry their kind each. Foods do neither. The never-knew twin was not
taught the winter colors.
"""

from graceful_forgetting.worlds.entangled.world import ENTANGLED

__all__ = ["ENTANGLED"]
