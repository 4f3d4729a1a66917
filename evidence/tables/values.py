"""What archived runs say, as the text of a cell: accuracies, paired differences, shares of a gap, spreads.

`Runs` are the groups of one world, one a build or setting. Seeds are paired within a group and pooled over groups.
Intervals are 95 %: Student's t of differences, bootstrap of shares.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean, variance

from scipy.stats import f

from graceful_forgetting.results.statistics import GapRecovered, gap_recovered, paired_interval
from graceful_forgetting.results.text import MISSING, Show, estimate, fixed, interval, points, share
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.comparison import Group

Runs = Sequence[Group]
Worlds = Mapping[str, Runs]
"""World -> its runs."""
Value = Callable[[CellResult], float | None]
"""A number of a cell, higher is better; None where it was not measured."""


def paired(runs: Runs, *methods: str) -> list[list[CellResult]]:
    """The cells of each method over all groups that have them all, for the seeds that all have."""
    joined: list[list[CellResult]] = [[] for _ in methods]
    for group in runs:
        for kept, cells in zip(joined, group.paired(*methods), strict=True):
            kept += cells
    return joined


def scores(runs: Runs, *methods: str) -> list[list[float]]:
    """As `paired`, the cells' scores."""
    return [[cell.score for cell in cells] for cells in paired(runs, *methods)]


def accuracy(runs: Runs, method: str) -> str:
    """Mean, in %; a dash where the method was not run."""
    (own,) = scores(runs, method)
    return points(fmean(own)) if own else MISSING


def gain(runs: Runs, method: str, other: str = "plain") -> str:
    """What the method gains over the other one, in points; a dash where nothing has both."""
    ours, theirs = scores(runs, method, other)
    return difference(ours, theirs)


def difference(ours: Sequence[float], theirs: Sequence[float], *, show: Show = points) -> str:
    """The mean difference of paired values with its interval; a dash where there are none."""
    if not ours:
        return MISSING
    found = paired_interval(ours, theirs)
    return estimate(found.difference, found.low, found.high, show)


def gap(runs: Runs, method: str) -> GapRecovered:
    """The gap between plain fine-tuning and the model that never knew, and the share of it that a method recovers."""
    plain, ours, never_knew = scores(runs, "plain", method, "never_knew")
    return gap_recovered(plain, ours, never_knew)


def gap_share(runs: Runs, method: str) -> str:
    """Of `gap`, in %; a dash where the gap may be none, of which a share says nothing."""
    found = gap(runs, method)
    if found.fraction is None or found.low is None or found.high is None:
        return MISSING
    return f"{share(found.fraction)} {interval(found.low, found.high)}"


def values(group: Group, method: str, value: Value) -> dict[int, tuple[float, float]]:
    """Seed -> the values of the method and of plain fine-tuning, for the seeds where both were measured."""
    found = {}
    for ours, plain in zip(*group.paired(method, "plain"), strict=True):
        a, b = value(ours), value(plain)
        if a is not None and b is not None:
            found[ours.seed] = (a, b)
    return found


def value_gain(pairs: Sequence[tuple[float, float]], decimals: int) -> str:
    """The mean difference of pairs of values, in their own unit."""
    return difference([a for a, _ in pairs], [b for _, b in pairs], show=partial(fixed, decimals=decimals))


def spread_ratio(runs: Runs, method: str, other: str) -> str:
    """Standard deviation over seeds of the method, as a multiple of the other one's.

    Deviations are from the mean of a group, with variances pooled over groups; the interval is that of the F
    distribution, which takes scores for normal and the two methods for independent. A dash where one of the two does
    not vary at all, of which a ratio says nothing.
    """
    ours, free = _pooled_variance(runs, method)
    theirs, their_free = _pooled_variance(runs, other)
    if ours == 0 or theirs == 0:
        return MISSING
    ratio = ours / theirs
    low, high = ratio / f.ppf(0.975, free, their_free), ratio * f.ppf(0.975, their_free, free)
    one_decimal = partial(fixed, decimals=1)
    return f"{one_decimal(ratio**0.5)} {interval(low**0.5, high**0.5, one_decimal)}"


def _pooled_variance(runs: Runs, method: str) -> tuple[float, int]:
    """Within groups, and its degrees of freedom; groups with one seed say nothing."""
    known = [group.scores(method) for group in runs if len(group.methods[method]) > 1]
    weights = [len(one) - 1 for one in known]
    return fmean([variance(one) for one in known], weights), sum(weights)


def bits_saved(cell: CellResult) -> float | None:
    """Minus the bits per byte of the learning task's answers."""
    bits = cell.metrics[cell.learning_task].bits_per_byte
    return None if bits is None else -bits


def neutral_bits_saved(cell: CellResult) -> float | None:
    """Minus the bits per byte of the neutral text; None where the sweep measured none."""
    bits = cell.neutral_bits_per_byte
    return None if bits is None else -bits


def choice_accuracy(cell: CellResult) -> float | None:
    """Chance-adjusted accuracy by likelihood; None for a task without options."""
    choice = cell.metrics[cell.learning_task].choice
    return None if choice is None else choice.adjusted
