"""What is measured beside accuracy: answer by answer, over a curve, of a ranking, and over worlds.

Answers of one model on one test set are text, one character an item in the order of the rows: `RIGHT`, `OLD` (the
answer that pre-training taught, where it is known and wrong now) or `OTHER`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from graceful_forgetting.results.statistics import Interval, drawn, gap_recovered, percentile_bounds

RIGHT, OLD, OTHER = "1", "0", "-"
# Pairs up to which SciPy (1.17) tries every pattern of signs where differences are tied.
_MOST_SIGNS = 13

# Answers -------------------------------------------------------------------------------------------------------------


def newly_right_and_broken(before: str, after: str) -> tuple[int, int]:
    """Items wrong before and right after, and the reverse (Harmon et al. 2025 count 0→1 and 1→0 alike).

    Raises `ValueError` for answers to different numbers of items.
    """
    old, new = right_matrix([before, after]) == 1
    return int((~old & new).sum()), int((old & ~new).sum())


def answer_split(answers: str) -> dict[str, float]:
    """Shares of right, old and other answers (clean, corrupted and random in RESTOR, arXiv 2411.00204).

    Raises `ValueError` where there are no answers.
    """
    if not answers:
        raise ValueError("answers is empty: there is nothing to split")
    return {
        name: answers.count(sign) / len(answers) for name, sign in (("right", RIGHT), ("old", OLD), ("other", OTHER))
    }


def memorisation_ratio(answers: str) -> float | None:
    """old / (old + right), M_R of Longpre et al. (arXiv 2109.05052); None where neither occurs."""
    old, right = answers.count(OLD), answers.count(RIGHT)
    return None if old + right == 0 else old / (old + right)


def distance_to_reference(ratios: Sequence[float], reference: Sequence[float]) -> float:
    """Kolmogorov–Smirnov statistic of two sets of per-item truth ratios.

    TOFU's forget quality (arXiv 2401.06121) is its p-value, on log P(old) − log P(new). An empty set is a `ValueError`.
    """
    if not len(ratios) or not len(reference):
        raise ValueError("truth ratios are empty: the test set needs a column old_answer")
    # The exact p-value, which nobody reads here, takes milliseconds, and a sweep asks once a cell.
    found = float(stats.ks_2samp(ratios, reference, method="asymp").statistic)
    # Shares of either sample: a whole number of these steps, which takes off what rounding has added.
    steps = math.lcm(len(ratios), len(reference))
    return round(found * steps) / steps


def right_matrix(answers: Sequence[str]) -> NDArray[np.float64]:
    """(seeds, items): 1 where right. Raises `ValueError` for unequal numbers of items."""
    if len({len(row) for row in answers}) > 1:
        raise ValueError("answers have different numbers of items: the runs were tested on different rows")
    return (np.array([_codes(row) for row in answers]) == _codes(RIGHT)).astype(np.float64)


def difference_over_seeds_and_items(first: Sequence[str], second: Sequence[str]) -> Interval:
    """Accuracy of `first` − `second`, with a percentile bootstrap that draws seeds and items, both paired.

    `first`, `second`: answers by seed, in the same order of seeds and of items. Raises `ValueError` where they do not
    match.
    """
    a, b = right_matrix(first), right_matrix(second)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"answers of {a.shape} and {b.shape} (seeds, items) cannot be paired")
    difference = a - b
    seeds, items = difference.shape
    if seeds == 1:
        return Interval(float(difference.mean()), None, None)
    by_seed, by_item = _times_both_drawn(seeds, items)
    # Sums of whole numbers, each below 2^24: exact in float32 as well.
    sums = ((by_item @ difference.T.astype(np.float32)).astype(np.float64) * by_seed).sum(axis=1)
    return Interval(float(difference.mean()), *percentile_bounds(sums / difference.size))


@lru_cache(maxsize=1)
def _times_both_drawn(seeds: int, items: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How often each seed and each item is drawn in every resample; a sweep asks the same for each of its methods."""
    by_seed, by_item = (_times_drawn(picks).astype(np.float32) for picks in drawn(seeds, items))
    return by_seed, by_item


def _times_drawn(picks: NDArray[np.int64]) -> NDArray[np.int64]:
    """(resamples, units): how often each unit is among the picks of a resample, (resamples, units) too."""
    resamples, units = picks.shape
    flat = picks + units * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=picks.size).reshape(picks.shape)


# Seeds ---------------------------------------------------------------------------------------------------------------


def wilcoxon_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p of the Wilcoxon signed-rank test on pairs; None where all pairs are equal.

    Raises `ValueError` for unequal lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values cannot be paired")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not differences.any():
        return None
    unequal = differences[differences != 0]
    if len(differences) > _MOST_SIGNS or len(np.unique(np.abs(unequal))) == len(differences):
        return float(stats.wilcoxon(differences).pvalue)
    # With ties SciPy ranks anew for every pattern of signs, which takes a second; the ranks are the same for all.
    ranks = stats.rankdata(np.abs(unequal))
    patterns = np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks)) & 1
    sums, observed = patterns @ ranks, ranks[unequal > 0].sum()
    return float(min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean())))


def gap_recovered_over(
    plain: Sequence[float],
    method: Sequence[float],
    control: Sequence[float],
    reference: Sequence[float],
) -> Interval | None:
    """Share of the gap reference − plain that the method recovers beyond the control; None without a gap.

    (M − K)/(N − K) − (R − K)/(N − K) = (M − R)/(N − K): one ratio with its percentile bootstrap over seeds. Raises
    `ValueError` as `gap_recovered` does.
    """
    gap = [upper - base for upper, base in zip(reference, plain, strict=True)]
    beyond = [treated - other for treated, other in zip(method, control, strict=True)]
    share = gap_recovered([0.0] * len(gap), beyond, gap)
    return None if share.fraction is None else Interval(share.fraction, share.low, share.high)


# Curves --------------------------------------------------------------------------------------------------------------


def area_under_curve(steps: Sequence[float], values: Sequence[float]) -> float:
    """Mean height of a curve: its trapezoidal area over the length of its axis.

    Raises `ValueError` for fewer than two points or steps that do not rise.
    """
    if len(steps) != len(values) or len(steps) < 2:
        raise ValueError(f"{len(steps)} steps and {len(values)} values: a curve needs two points or more")
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"steps={list(steps)} do not rise")
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def evidence_required(accuracy_by_size: Mapping[int, float], target: float) -> int | None:
    """Fewest learning examples from which on the accuracy reaches `target`; None where no size does.

    Among the measured sizes, without interpolation, so that the answer is a size that was run. As in Lovering et al.,
    *Predicting inductive biases of pre-trained models* (ICLR 2021).
    """
    enough = [size for size, accuracy in accuracy_by_size.items() if accuracy >= target]
    return min(enough, default=None)


# Rankings ------------------------------------------------------------------------------------------------------------


def by_falling_score(scores: Sequence[float], labels: Sequence[str]) -> str:
    """The one-character labels, highest score first; equal scores keep the order of their rows."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return "".join(labels[index] for index in order)


def run_lengths(ranking: str) -> str:
    """A ranking with repeated letters counted, "cccn" as "c3n": the form that files keep."""
    counted = [(label, len(list(run))) for label, run in groupby(ranking)]
    return "".join(label if length == 1 else f"{label}{length}" for label, length in counted)


def expanded(lengths: str) -> str:
    """The ranking that `run_lengths` wrote."""
    return re.sub(r"(\D)(\d+)", lambda run: run[1] * int(run[2]), lengths)


def auroc(ranking: str, positive: str, negative: str | None = None) -> float | None:
    """Chance that a positive sample stands before a negative one in a `by_falling_score` ranking.

    `negative`: labels that count as negative, each a character; none: all others. None where one side is empty.
    """
    labels = _codes(ranking)
    is_positive = labels == _codes(positive)
    is_negative = ~is_positive if negative is None else ~is_positive & (labels[:, None] == _codes(negative)).any(axis=1)
    positives, pairs = int(is_positive.sum()), int(is_negative.sum())
    before = int(is_positive.cumsum()[is_negative].sum())
    return None if positives == 0 or pairs == 0 else before / (positives * pairs)


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def precision_at(ranking: str, positive: str, count: int) -> float:
    """Share of positive samples among the first `count`. Raises `ValueError` if there are not so many."""
    if not 1 <= count <= len(ranking):
        raise ValueError(f"count={count} is not valid: it must be from 1 to {len(ranking)}, the ranked samples")
    return ranking[:count].count(positive) / count


# Worlds --------------------------------------------------------------------------------------------------------------


def mean_ranks(by_world: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean rank of every method over worlds (1 = best, ties share), best first; higher values are better.

    Only methods that every world has are ranked, as a rank among others would not compare.
    """
    if not by_world:
        return {}
    methods = [method for method in by_world[0] if all(method in world for world in by_world)]
    if not methods:
        return {}
    ranks = [stats.rankdata([-world[method] for method in methods]) for world in by_world]
    means = dict(zip(methods, np.mean(ranks, axis=0).tolist(), strict=True))
    return dict(sorted(means.items(), key=lambda item: item[1]))
