"""What is kept of the study: one row a world, build, seed and setting."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from graceful_forgetting.results.measures import auroc, by_falling_score, precision_at

# Step sizes of the confidence that are tried, in units of the pool's median crossover.
MULTIPLES = (0.01, 0.1, 0.3, 1, 3, 10, 30)
CONFLICTING, HELPFUL, NEUTRAL = "c", "h", "n"
_DIGITS = 4


@dataclass(frozen=True)
class Setting:
    """A way to score.

    Attributes:
        scorer: as in `ConfidenceConfig`.
        fisher: estimator of the Fisher information, where the scorer reads it.
        at: the weights at which it was estimated, "reference" (θ*_L) or "base".
        step: α, where it matters: a number; a number with "x", in units of the median crossover of the pool;
            "polyak" or "line_search", one for each sample.
    """

    scorer: str
    fisher: str | None = None
    at: str | None = None
    step: str | None = None


@dataclass(frozen=True)
class Detection:
    """How a score orders samples of known kind; None where there is nothing of the kind.

    Attributes:
        auroc: chance that a conflicting sample is above one of any other kind.
        auroc_helpful: that it is above a helpful one.
        precision: share of conflicting samples among as many of the highest as there are.
        above_helpful: chance that a sample that is not helpful is above one that is.
    """

    auroc: float | None
    auroc_helpful: float | None
    precision: float | None
    above_helpful: float | None


@dataclass(frozen=True)
class StudyRow:
    """One setting, measured with one reference run.

    `seconds`: processor time of all that the score takes: reference run, Fisher information and scoring, without the
    elicitation, which all settings share.
    """

    world: str
    build: int
    seed: int
    setting: Setting
    detection: Detection
    seconds: float


def detection(scores: Sequence[float], kinds: Sequence[str]) -> Detection:
    """Measures of `scores` (higher: forget first) against the kinds, one letter each."""
    ranking = by_falling_score(scores, kinds)
    conflicting = ranking.count(CONFLICTING)
    # To the measure, all that is not helpful is of one kind.
    others = ranking.replace(NEUTRAL, CONFLICTING)
    return Detection(
        auroc=auroc(ranking, CONFLICTING),
        auroc_helpful=auroc(ranking, CONFLICTING, HELPFUL),
        precision=precision_at(ranking, CONFLICTING, conflicting) if conflicting else None,
        above_helpful=auroc(others, CONFLICTING, HELPFUL),
    )


def append_rows(path: Path, rows: Iterable[StudyRow]) -> None:
    """Add rows to a file of JSON lines, numbers rounded; in one write, so that a crash leaves whole runs."""
    lines = []
    for row in rows:
        flat = {"world": row.world, "build": row.build, "seed": row.seed, **asdict(row.setting)}
        measured = {name: None if v is None else round(v, _DIGITS) for name, v in asdict(row.detection).items()}
        flat |= {**measured, "seconds": round(row.seconds, 1)}
        lines.append(json.dumps({name: value for name, value in flat.items() if value is not None}) + "\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def read_rows(path: Path) -> list[StudyRow]:
    """The rows that `append_rows` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is none of its lines, by its number.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            flat = json.loads(line)
            rows.append(
                StudyRow(
                    flat["world"],
                    flat["build"],
                    flat["seed"],
                    Setting(**{field.name: flat.get(field.name) for field in fields(Setting)}),
                    Detection(**{field.name: flat.get(field.name) for field in fields(Detection)}),
                    flat["seconds"],
                )
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number} is not a line of a scoring study ({error!r}); remove it") from error
    return rows
