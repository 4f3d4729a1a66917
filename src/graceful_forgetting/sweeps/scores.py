"""How well scores find what is known to conflict: the ground truth of the samples in the order of each score."""

from collections.abc import Mapping
from statistics import median

from datasets import Dataset

from graceful_forgetting.results.measures import by_falling_score, run_lengths
from graceful_forgetting.runs.sources import ForgettingSource, prompt_text
from graceful_forgetting.sweeps.cell import ScoreSummary
from graceful_forgetting.training.preparation import SCORE_COLUMN, TASK_COLUMN

# Letters by which rankings name the kinds of `KnowledgeKind`.
LETTERS = {"conflicting": "c", "helpful": "h", "neutral": "n"}
# Step sizes at which the confidence is ranked, in units of the median crossover.
CROSSOVERS = (1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64)


def kinds_of(scored: Dataset, forgetting: Mapping[str, ForgettingSource]) -> list[str | None]:
    """What each scored sample is to the learning task: by its prompt, else by its task, none where neither is known."""
    return [
        forgetting[task].row_kinds.get(prompt_text(prompt)) if forgetting[task].row_kinds else forgetting[task].kind
        for task, prompt in zip(scored[TASK_COLUMN], scored["prompt"], strict=True)
    ]


def score_summary(scored: Dataset, kinds: list[str | None], scorer: str) -> ScoreSummary | None:
    """Rankings of the samples whose kind is known by every score that was measured; none if no kind is known.

    `scored`: as `score_confidence` returns it. A sample without a value of some score is in none of the rankings.
    """
    rows = scored.with_format(None)
    columns = {"score": list(rows[SCORE_COLUMN])}
    names = ("confidence_linear", "confidence_quadratic", "loss", "step_size", "step_size_crossover")
    columns |= {name: list(rows[name]) for name in names if any(value is not None for value in rows[name])}
    known = [
        index
        for index, kind in enumerate(kinds)
        if kind is not None and all(values[index] is not None for values in columns.values())
    ]
    if not known:
        return None
    letters = [LETTERS[kinds[index] or ""] for index in known]
    values = {name: [column[index] for index in known] for name, column in columns.items()}
    scores = {scorer: values["score"]}
    if "confidence_linear" in values:
        scores |= {"linear": values["confidence_linear"], "overlap": values["confidence_quadratic"]}
    if "loss" in values:
        scores["loss"] = values["loss"]
    crossover = median(values["step_size_crossover"]) if "step_size_crossover" in values else None
    return ScoreSummary(
        kinds={letter: kind for kind, letter in LETTERS.items()},
        rankings={name: run_lengths(by_falling_score(column, letters)) for name, column in scores.items()},
        crossover=crossover,
        by_step_size={} if crossover is None else _by_step_size(values, letters, crossover),
    )


def _by_step_size(values: Mapping[str, list[float]], letters: list[str], crossover: float) -> dict[str, str]:
    """Rankings by the confidence at step sizes around the crossover, from its terms at the step that was taken."""
    rankings = {}
    for multiple in CROSSOVERS:
        terms = zip(values["confidence_linear"], values["confidence_quadratic"], values["step_size"], strict=True)
        factors = [(linear, quadratic, multiple * crossover / step) for linear, quadratic, step in terms]
        confidence = [linear * factor + quadratic * factor**2 for linear, quadratic, factor in factors]
        rankings[f"{multiple:g}"] = run_lengths(by_falling_score(confidence, letters))
    return rankings
