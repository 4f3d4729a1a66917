"""Statistics over seeds: means and paired differences with intervals, and how much of a known gap a method recovers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Of every bootstrap. With one seed the same numbers give the same interval on every machine.
RESAMPLES = 9999
_BOOTSTRAP_SEED = 0
# Relative error of a difference of two numbers.
_ROUNDING = 1e-15


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; both bounds are None where there is too little to resample."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PairedInterval:
    """Mean of the differences a − b over n pairs (seeds), with two intervals of the given confidence.

    `low`, `high`: Student's t interval of the mean difference. `bootstrap_low`, `bootstrap_high`:
    percentile bootstrap over the pairs; with a handful of pairs it is too narrow, so statements are made
    from the t interval. With one pair `sd` and all four bounds are None: one pair says nothing about
    spread.
    """

    n: int
    difference: float
    sd: float | None
    confidence: float
    low: float | None
    high: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None


@dataclass(frozen=True)
class GapRecovered:
    """Fraction of the gap between plain training and a reference that a method closes, over n seeds.

    `gap` = mean(reference − plain); `fraction` = mean(method − plain) / gap: 0 as plain, 1 as the
    reference. `fraction` is None where the gap is not above 0 (nothing to recover). `low`, `high`:
    percentile bootstrap over seeds of the ratio; None with one seed and where the gap is not above 0 in
    every resample, since the ratio is then unbounded.
    """

    n: int
    gap: float
    fraction: float | None
    confidence: float
    low: float | None
    high: float | None


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], size: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of a statistic over resamples of the `size` units that it was computed from.

    `statistic` takes (RESAMPLES, size) indices, what was drawn in every resample, and returns (RESAMPLES,) values.
    """
    return percentile_bounds(statistic(_drawn_of_one_kind(size)), confidence)


def percentile_bounds(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Bounds with this share of the resampled values between them; NaN in any makes both NaN."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def drawn(*sizes: int) -> list[NDArray[np.int64]]:
    """(RESAMPLES, size) indices for units of each kind, such as seeds and items; each kind is drawn on its own."""
    draw = np.random.default_rng(_BOOTSTRAP_SEED)
    return [draw.integers(0, size, size=(RESAMPLES, size)) for size in sizes]


@lru_cache(maxsize=4)
def _drawn_of_one_kind(size: int) -> NDArray[np.int64]:
    # Tables ask thousands of times for as many seeds.
    (picks,) = drawn(size)
    picks.setflags(write=False)
    return picks


def bootstrap_interval(values: Sequence[float] | NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Mean with its percentile bootstrap interval. Raises `ValueError` for no values."""
    array = _values(values)
    if array.size == 1:
        return Interval(float(array[0]), None, None)
    bounds = bootstrap(lambda picks: array[picks].mean(axis=1), array.size, confidence=confidence)
    return Interval(float(array.mean()), *bounds)


def mean_interval(values: Sequence[float] | NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval. Raises `ValueError` for no values."""
    array = _values(values)
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, None, None)
    from scipy import stats

    reach = float(stats.t.ppf((1 + confidence) / 2, array.size - 1) * array.std(ddof=1) / array.size**0.5)
    return Interval(mean, mean - reach, mean + reach)


def _values(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(values):
        raise ValueError("values is empty: there is no mean")
    return np.asarray(values, dtype=np.float64)


def _paired(confidence: float, **columns: Sequence[float]) -> list[NDArray[np.float64]]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} is not valid: it must be in (0, 1)")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"Paired values must have equal lengths, one value a seed; got {shown}")
    arrays = [np.asarray(values, dtype=np.float64) for values in columns.values()]
    if arrays[0].size == 0:
        raise ValueError(f"{' and '.join(columns)} are empty: at least one pair is needed")
    for name, array in zip(columns, arrays, strict=True):
        if not np.isfinite(array).all():
            raise ValueError(f"{name}={array.tolist()} holds a value that is not finite; drop that seed from every arm")
    return arrays


def paired_interval(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> PairedInterval:
    """Mean paired difference a − b with its t interval and its percentile bootstrap interval.

    `a`, `b`: one value a seed, in the same order of seeds. Raises `ValueError` for unequal lengths, no
    values, values that are not finite, or a confidence outside (0, 1).
    """
    first, second = _paired(confidence, a=a, b=b)
    differences = first - second
    n, mean = len(differences), float(differences.mean())
    if n == 1:
        return PairedInterval(1, mean, None, confidence, None, None, None, None)
    sd = float(differences.std(ddof=1))
    if sd <= _ROUNDING * max(float(np.abs(first).max()), float(np.abs(second).max())):
        # Identical differences but for rounding: neither interval has a width.
        return PairedInterval(n, mean, 0.0, confidence, mean, mean, mean, mean)
    t, resampled = mean_interval(differences, confidence), bootstrap_interval(differences, confidence)
    return PairedInterval(n, mean, sd, confidence, t.low, t.high, resampled.low, resampled.high)


def gap_recovered(
    plain: Sequence[float], method: Sequence[float], reference: Sequence[float], *, confidence: float = 0.95
) -> GapRecovered:
    """Share of the gap reference − plain that the method recovers; seeds paired, higher is better.

    Raises as `paired_interval` does.
    """
    base, treated, upper = _paired(confidence, plain=plain, method=method, reference=reference)
    gains, gaps = treated - base, upper - base
    n, gap = len(gaps), float(gaps.mean())
    if gap <= 0:
        return GapRecovered(n, gap, None, confidence, None, None)
    fraction = float(gains.mean()) / gap
    if n == 1:
        return GapRecovered(1, gap, fraction, confidence, None, None)

    def ratio(picks: NDArray[np.int64]) -> NDArray[np.float64]:
        resampled = gaps[picks].mean(axis=1)
        return gains[picks].mean(axis=1) / np.where(resampled > 0, resampled, np.nan)

    low, high = bootstrap(ratio, n, confidence=confidence)
    bounds = (low, high) if np.isfinite(low) else (None, None)
    return GapRecovered(n, gap, fraction, confidence, *bounds)
