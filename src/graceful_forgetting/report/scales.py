"""Axis scales: from data values to positions, with readable ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graceful_forgetting.results.text import number

ScaleKind = Literal["linear", "log", "symlog"]
# Beyond this ratio of largest to smallest value a linear axis hides the small ones.
_WIDE_RATIO = 50.0


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end].

    `knee`: a symlog axis is asinh(value / knee), hence close to linear below it.
    """

    kind: ScaleKind
    low: float
    high: float
    start: float
    end: float
    knee: float = 1.0

    def _warp(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value)
        if self.kind == "symlog":
            return math.asinh(value / self.knee)
        return value

    def __call__(self, value: float) -> float:
        low, high = self._warp(self.low), self._warp(self.high)
        return self.start + (self.end - self.start) * (self._warp(value) - low) / (high - low)

    def edges(self, bins: int) -> list[float]:
        """`bins` + 1 values whose positions are evenly spaced."""
        warped = np.linspace(self._warp(self.low), self._warp(self.high), bins + 1)
        if self.kind == "log":
            values = [10.0**value for value in warped]
        elif self.kind == "symlog":
            values = [math.sinh(value) * self.knee for value in warped]
        else:
            values = [float(value) for value in warped]
        return [self.low, *values[1:-1], self.high]

    def ticks(self, about: int = 5) -> list[tuple[float, str]]:
        """(position, label) of readable values inside the scale."""
        if self.kind == "linear":
            values = _linear_ticks(self.low, self.high, about)
        elif self.kind == "log":
            values = _log_ticks(self.low, self.high, about)
        else:
            values = _symlog_ticks(self.low, self.high, self.knee, about)
        positions = [self(value) for value in values]
        for digits in range(3, 17):
            labels = [number(value, digits) for value in values]
            if len(set(labels)) == len(labels):
                break
        return list(zip(positions, labels, strict=True))


def scale_for(
    values: Sequence[float] | np.ndarray,
    start: float,
    end: float,
    *,
    kinds: Sequence[ScaleKind] = ("linear",),
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Scale:
    """A scale over finite `values` with a little room; log or symlog only if allowed and needed.

    `limits`: the least and the greatest value that there can be; a linear axis ends there.
    """
    array = np.asarray(values, dtype=np.float64)
    low, high = float(array.min()), float(array.max())
    if "log" in kinds and low > 0 and high / low > _WIDE_RATIO:
        margin = (high / low) ** 0.02
        return Scale("log", low / margin, high * margin, start, end)
    if "symlog" in kinds:
        knee = float(np.median(np.abs(array)))
        if knee > 0 and max(abs(low), abs(high)) / knee > _WIDE_RATIO:
            room = 1.1
            return Scale("symlog", min(low * room, low / room), max(high * room, high / room), start, end, knee)
    room = 0.04 * (high - low)
    if room <= 1e-9 * max(abs(low), abs(high)):  # one value only
        room = 0.05 * abs(high) or 1.0
    return Scale("linear", max(low - room, limits[0]), min(high + room, limits[1]), start, end)


def _linear_ticks(low: float, high: float, about: int) -> list[float]:
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    # Fine ticks first; fall back to whole decades, then to every second, third, ... decade.
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [f * 10.0**e for e in range(first, last + 1) for f in factors if low <= f * 10.0**e <= high]
        if len(values) <= about + 1:
            return values
    stride = math.ceil(len(values) / about)
    return values[::stride]


def _symlog_ticks(low: float, high: float, knee: float, about: int) -> list[float]:
    first = math.ceil(math.log10(knee))
    sides = []
    for sign, bound in ((-1, -low), (1, high)):
        exponents = range(first, math.floor(math.log10(bound)) + 1) if bound > knee else range(0)
        stride = max(1, math.ceil(2 * len(exponents) / about))
        sides += [sign * 10.0**exponent for exponent in reversed(exponents[::-stride] if exponents else exponents)]
    zero = [0.0] if low <= 0 <= high else []
    return sorted(sides + zero)
