import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from graceful_forgetting.results.statistics import (
    Interval,
    bootstrap_interval,
    gap_recovered,
    mean_interval,
    paired_interval,
)

_LWF = [0.74, 0.71, 0.78, 0.73]
_PLAIN = [0.69, 0.70, 0.71, 0.68]


def test_t_interval_equals_scipys_paired_test():
    ours = paired_interval(_LWF, _PLAIN)
    theirs = stats.ttest_rel(_LWF, _PLAIN).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    assert ours.n == 4
    assert ours.difference == pytest.approx(np.mean(_LWF) - np.mean(_PLAIN))
    assert ours.sd == pytest.approx(np.std(np.subtract(_LWF, _PLAIN), ddof=1))


def test_bootstrap_interval_has_the_bounds_of_all_equally_likely_resamples():
    # Two pairs have three resample means: both 0 (1/4), one each (1/2), both 1 (1/4).
    interval = paired_interval([0.0, 1.0], [0.0, 0.0])
    assert (interval.bootstrap_low, interval.bootstrap_high) == (0.0, 1.0)
    # All three draws hit the last of (0, 0, 1) with probability 1/27, above the 2.5 % left out.
    skewed = paired_interval([0.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    assert (skewed.bootstrap_low, skewed.bootstrap_high) == (0.0, 1.0)
    narrower = paired_interval([0.0, 1.0], [0.0, 0.0], confidence=0.4)
    assert (narrower.bootstrap_low, narrower.bootstrap_high) == (0.5, 0.5)


def test_one_pair_has_no_interval():
    interval = paired_interval([0.8], [0.7])
    assert interval.difference == pytest.approx(0.1)
    assert [interval.sd, interval.low, interval.high, interval.bootstrap_low, interval.bootstrap_high] == [None] * 5


def test_identical_differences_have_an_interval_without_width():
    interval = paired_interval([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
    assert (interval.sd, interval.low, interval.high) == (0.0, 0.5, 0.5)


def test_differences_that_are_identical_but_for_rounding_have_none_either(recwarn):
    interval = paired_interval([0.1 + 0.2, 0.3 + 0.4, 0.5], [0.2, 0.6, 0.4])
    assert len({0.1 + 0.2 - 0.2, 0.3 + 0.4 - 0.6, 0.5 - 0.4}) > 1
    assert (interval.sd, interval.low, interval.high) == (0.0, pytest.approx(0.1), pytest.approx(0.1))
    assert not recwarn.list


_VALUES = st.integers(-1000, 1000).map(lambda value: value / 1000)
_PAIRS = st.lists(st.tuples(_VALUES, _VALUES), min_size=2, max_size=6)


@settings(max_examples=25, deadline=None)
@given(_PAIRS)
def test_interval_surrounds_the_mean_and_flips_with_the_order(pairs):
    a, b = zip(*pairs, strict=True)
    forward, backward = paired_interval(a, b), paired_interval(b, a)
    tolerance = 1e-9
    assert forward.low - tolerance <= forward.difference <= forward.high + tolerance
    assert forward.bootstrap_low - tolerance <= forward.difference <= forward.bootstrap_high + tolerance
    assert backward.difference == pytest.approx(-forward.difference, abs=tolerance)
    assert (backward.low, backward.high) == pytest.approx((-forward.high, -forward.low), abs=tolerance)


@settings(max_examples=25, deadline=None)
@given(_PAIRS, st.floats(0.5, 0.9))
def test_more_confidence_is_a_wider_interval(pairs, confidence):
    a, b = zip(*pairs, strict=True)
    narrow, wide = paired_interval(a, b, confidence), paired_interval(a, b, 0.99)
    assert wide.low <= narrow.low + 1e-12
    assert wide.high >= narrow.high - 1e-12


def test_gap_recovered_of_known_fractions():
    plain, reference = [0.5, 0.6, 0.55], [0.7, 0.9, 0.8]
    halfway = [(p + r) / 2 for p, r in zip(plain, reference, strict=True)]
    for method, fraction in ((plain, 0.0), (halfway, 0.5), (reference, 1.0)):
        found = gap_recovered(plain, method, reference)
        assert (found.fraction, found.low, found.high) == pytest.approx((fraction, fraction, fraction))
        assert found.gap == pytest.approx(0.25)


def test_gap_interval_covers_the_fraction_and_is_reproducible():
    plain, method, reference = [0.6, 0.7, 0.65, 0.68], [0.7, 0.71, 0.7, 0.75], [0.8, 0.85, 0.8, 0.9]
    first, second = (gap_recovered(plain, method, reference) for _ in range(2))
    assert first == second
    assert first.low < first.fraction < first.high


@pytest.mark.parametrize(
    ("reference", "has_fraction"),
    [([0.5, 0.6], False), ([0.5, 0.9], True)],
    ids=["no gap at all", "a gap that one of two seeds lacks"],
)
def test_gap_that_is_not_there_has_no_interval(reference, has_fraction):
    found = gap_recovered([0.6, 0.7], [0.65, 0.75], reference)
    assert (found.fraction is not None) is has_fraction
    assert found.low is None
    assert found.high is None


def test_gap_of_one_seed_has_a_fraction_and_no_interval():
    found = gap_recovered([0.5], [0.6], [0.7])
    assert found.fraction == pytest.approx(0.5)
    assert found.low is None


def test_unequal_lengths_are_refused_with_both_lengths():
    with pytest.raises(ValueError, match="a: 3, b: 2"):
        paired_interval([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="plain: 1, method: 2, reference: 1"):
        gap_recovered([1], [1, 2], [1])


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_confidence_outside_its_range_is_refused(confidence):
    with pytest.raises(ValueError, match=f"confidence={confidence}"):
        paired_interval([1, 2], [0, 0], confidence)


def test_no_values_and_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        paired_interval([], [])
    with pytest.raises(ValueError, match=r"b=.*not finite"):
        paired_interval([1.0, 2.0], [1.0, math.nan])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_mean_interval_is_the_paired_t_interval_against_zero(values):
    found, paired = mean_interval(values), paired_interval(values, [0.0] * len(values))
    assert found.value == pytest.approx(paired.difference, abs=1e-12)
    assert (found.low, found.high) == (pytest.approx(paired.low, abs=1e-9), pytest.approx(paired.high, abs=1e-9))


def test_bootstrap_interval_is_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=30)
    found = bootstrap_interval(values.tolist())
    slow = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == (pytest.approx(slow.low, abs=0.03), pytest.approx(slow.high, abs=0.03))
    assert bootstrap_interval([2.0]) == Interval(2.0, None, None)
    with pytest.raises(ValueError, match="empty"):
        bootstrap_interval([])
