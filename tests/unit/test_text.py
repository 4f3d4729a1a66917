"""Numbers as text."""

import math
from functools import partial

import pytest

from graceful_forgetting.results.text import (
    duration,
    estimate,
    fixed,
    measured,
    number,
    percent,
    points,
    share,
    signed,
    size,
    spread,
    timestamp,
)


def test_numbers_as_text():
    assert [number(value) for value in (None, float("nan"), 0.0, -12, 1234567.0, 0.00001234, 3.14159)] == [
        "–",
        "–",
        "0",
        "−12",
        "1.235e6",
        "1.234e-5".replace("-", "−"),
        "3.142",
    ]
    assert [signed(0.05), signed(-0.0501), signed(None)] == ["+0.050", "−0.050", "–"]
    assert [duration(0.123), duration(59.7), duration(185), duration(7620)] == [
        "0.12 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 07 min",
    ]
    assert [percent(None), percent(0.0), percent(0.005), percent(0.954)] == ["–", "0\u00a0%", "0.5\u00a0%", "95\u00a0%"]
    assert timestamp("2025-01-31T10:30:59+01:00") == "2025-01-31 09:30 UTC"
    assert timestamp("yesterday") == "yesterday"
    assert [size(None), size(0), size(1536), size(5 * 2**30)] == ["–", "0 B", "2 KiB", "5.00 GiB"]


@pytest.mark.parametrize("show", [number, fixed, signed, points, share, percent, partial(measured, metric="nll")])
def test_what_is_missing_or_not_finite_is_a_dash(show):
    assert {show(value) for value in (None, math.nan, math.inf)} == {"–"}


def test_a_rounded_zero_has_no_minus_of_its_own():
    assert [fixed(-0.0), signed(-0.0, 1), points(-0.0)] == ["0.000", "+0.0", "0.0"]


def test_shares_are_points_or_percent():
    assert [points(0.1234), points(-0.1234, sign=True), share(0.125, 1), share(-0.3)] == [
        "12.3",
        "−12.3",
        "12.5 %",
        "−30 %",
    ]
    assert [measured(0.5, "accuracy"), measured(0.5, "bits_per_byte", sign=True)] == ["50.0", "+0.500"]


def test_an_estimate_has_its_interval_where_there_is_one():
    assert estimate(0.08, -0.014, 0.174) == "+8.0 [−1.4, 17.4]"
    assert estimate(-0.08, None, None) == "−8.0"
    assert estimate(0.5, 0.25, 1.0, partial(fixed, decimals=2)) == "+0.50 [0.25, 1.00]"
    assert [spread(0.71, 0.014), spread(0.71, None)] == ["71.0 ± 1.4", "71.0"]
