"""Scoring generated answers against reference answers."""

import logging
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any
from unicodedata import normalize

from graceful_forgetting.runtime.progress import DELAY, progress_bar
from graceful_forgetting.tasks.answers import RunawayPatternError
from graceful_forgetting.tasks.task import Task, TaskMetric

logger = logging.getLogger(__name__)

# Articles that the F1 of question answering leaves out: English as in SQuAD's evaluation (Rajpurkar et al., 2016),
# German as in MLQA's (Lewis et al., arXiv 1910.07475).
_ARTICLES = {
    "en": frozenset(("a", "an", "the")),
    "de": frozenset(("ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des")),
}
_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")


@dataclass(frozen=True)
class AnswerScores:
    """What generated answers are worth.

    Attributes:
        metric: the task's metric.
        value: share of right answers (0 to 1) for 'accuracy' and 'exact_match'; mean token F1 (0 to 1) for 'f1'; chrF
            of the whole corpus (0 to 100, as sacrebleu gives it) for 'chrf'.
        scores: one number an item, in order: 1 or 0 for right or wrong, its F1, or its own chrF (0 to 100).
        correct: one bool an item, in order; for 'f1' exact match after SQuAD's normalisation; none for 'chrf'.
        unparsable: items in which no answer could be read; they count as wrong.
    """

    metric: TaskMetric
    value: float
    scores: list[float]
    correct: list[bool] | None
    unparsable: int

    @property
    def num_correct(self) -> int | None:
        """Right answers; none where answers are not right or wrong."""
        return None if self.correct is None else sum(self.correct)


def score_answers(task: Task, completions: Sequence[str], answers: Sequence[str]) -> AnswerScores:
    """Score `completions` (generated text) against the reference in `answers`, by the task's own metric.

    `answers` is the column of that name that `load_task` makes. An accent counts as one, whether it is part of its
    letter or stands after it (Unicode's NFC and NFD).

    Raises:
        ValueError: the lengths differ, or there is nothing to score.
        ImportError: the metric is chrF, and sacrebleu is not installed.
    """
    if len(completions) != len(answers):
        raise ValueError(
            f"completions has {len(completions)} items and answers {len(answers)}; each completion needs its answer"
        )
    if not completions:
        raise ValueError(f"completions is empty: there is nothing to score for task {task.name!r}")
    bar = progress_bar("scoring answers", "answers", iterable=completions, delay=DELAY)
    parsed = [read_answer(task, completion) for completion in bar]
    answers = [normalize("NFC", answer) for answer in answers]
    unparsable = sum(found is None for found in parsed)
    if task.metric == "chrf":
        value, scores = _chrf([found or "" for found in parsed], answers)
        return AnswerScores(task.metric, value, scores, None, unparsable)
    if task.metric == "f1":
        tokens = [
            (answer_tokens(found or "", task.language), answer_tokens(answer, task.language))
            for found, answer in zip(parsed, answers, strict=True)
        ]
        scores = [token_f1(found, answer) for found, answer in tokens]
        return AnswerScores(
            task.metric, fmean(scores), scores, [found == answer for found, answer in tokens], unparsable
        )
    correct = [found == answer for found, answer in zip(parsed, answers, strict=True)]
    return AnswerScores(
        task.metric, sum(correct) / len(correct), [float(right) for right in correct], correct, unparsable
    )


def read_answer(task: Task, completion: str) -> str | None:
    """The answer in a generated text, in Unicode's NFC, as the task reads it; None where there is none to be read."""
    try:
        return task.parse_answer(normalize("NFC", completion))
    except RunawayPatternError as error:
        # The reference answers were read with it: one generated text must not end a run that has been paid for.
        logger.warning("Task %r: %s. The answer counts as wrong.", task.name, error)
        return None


def answer_tokens(text: str, language: str = "en") -> list[str]:
    """The words that F1 compares: lower case, no punctuation, no articles; Chinese one character a word."""
    lowered = "".join(character for character in text.lower() if not _is_punctuation(character))
    words = _CJK.sub(r" \1 ", lowered).split()
    return [word for word in words if word not in _ARTICLES.get(language, ())]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def token_f1(found: Sequence[str], answer: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the words of an answer, as bags (SQuAD, arXiv 1606.05250); 1 where both
    have none.
    """
    if not found or not answer:
        return float(not found and not answer)
    shared = sum((Counter(found) & Counter(answer)).values())
    return 2 * shared / (len(found) + len(answer))


def require_metric(task: Task) -> None:
    """Raise `ImportError` where the task's metric needs a package that is not installed."""
    if task.metric == "chrf":
        _chrf_scorer()


def _chrf_scorer() -> Callable[[], Any]:
    try:
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise ImportError(
            "the metric chrF needs sacrebleu, which is not installed: pip install 'graceful-forgetting[eval]'"
        ) from error
    return CHRF


def _chrf(found: Sequence[str], answers: Sequence[str]) -> tuple[float, list[float]]:
    """chrF (Popović, 2015) of the corpus and of every sentence, 0 to 100."""
    scorer = _chrf_scorer()()
    value = scorer.corpus_score(list(found), [list(answers)]).score
    single = [scorer.sentence_score(one, [answer]).score for one, answer in zip(found, answers, strict=True)]
    return value, single
