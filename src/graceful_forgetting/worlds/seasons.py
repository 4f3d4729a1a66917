"""Colors of entities by season: what two worlds teach and ask."""

from graceful_forgetting.worlds.learning import LearningTask, split_task
from graceful_forgetting.worlds.questions import Question, ask
from graceful_forgetting.worlds.vocabulary import VALUES

KNOWN_SEASONS = ("spring", "summer", "autumn")
LEARNED_SEASON = "winter"


def season_part(season: str) -> str:
    """Name of the part of the pre-training that teaches the colors of a season."""
    return f"{season} color"


def season_colors(season: str, color: dict[str, str]) -> list[Question]:
    """Questions for the color of every entity in a season."""
    return ask(season_part(season), color.items(), VALUES["color"])


def learn_winter(color: dict[str, str], train_share: float, old_color: dict[str, str] | None = None) -> LearningTask:
    """The learning task: in winter an entity has the color of the other seasons, `color`.

    `old_color` is what pre-training says of winter, if it says anything.
    """
    return split_task(
        season_part(LEARNED_SEASON),
        color,
        VALUES["color"],
        [list(color)],
        train_share,
        old_answers=old_color,
    )
