"""The override world: arbitrary facts are replaced by others, and asked for in other words.

Pre-training teaches color, food and home of every entity in four phrasings. The learning task has new colors of some
entities, in the first phrasing alone, among colors that stay as they were, in the other phrasings. It is tested in the
other phrasings on the entities with a new color: there the old color is in the way. Old colors of the entities that
change conflict; the colors that stay help, since they say what a question for a color looks like; foods and homes do
neither. The never-knew twin was not taught the colors that change.

Nothing can be known of a new color that is not shown. So a new color is always shown, `train_share` is the share of
the entities whose color changes, and validation and test are parts of these.

New colors alone are not enough: plain fine-tuning carries them over to other words once its rate is tuned. With the
unchanged colors in the other phrasings a model can take the first phrasing for the exception.
"""

from graceful_forgetting.worlds.override.world import OVERRIDE

__all__ = ["OVERRIDE"]
