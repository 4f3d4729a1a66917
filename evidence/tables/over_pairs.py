"""Tables of pairs of methods over several worlds: which of the two is better, and which varies less between seeds."""

from collections.abc import Sequence
from statistics import fmean, variance

from scipy.stats import f

from evidence.tables.over_worlds import Worlds
from graceful_forgetting.sweeps.comparison import Group
from graceful_forgetting.sweeps.differences import NONE, gain_over, interval

Pairs = Sequence[tuple[str, str]]


def gains_of_pairs(worlds: Worlds, pairs: Pairs) -> str:
    """Gain of the first method of each pair over the second in every world, in points.

    Seeds are paired within a build and pooled over builds; intervals are Student's t, 95 %.
    """
    rows = [f"| method | over | {_heads(worlds)} |", "|---" * (len(worlds) + 2) + "|"]
    for method, other in pairs:
        gains = (gain_over(groups, method, other) for groups in worlds.values())
        rows.append(f"| `{method}` | `{other}` | {' | '.join(gains)} |")
    return "\n".join(rows)


def spreads_of_pairs(worlds: Worlds, pairs: Pairs) -> str:
    """Standard deviation over seeds of the first method of each pair, as a multiple of the second's, in every world.

    Deviations are from the mean of a build, with variances pooled over builds; intervals are those of the F
    distribution, 95 %, which takes scores for normal and the two methods for independent.
    """
    rows = [f"| method | of the spread of | {_heads(worlds)} |", "|---" * (len(worlds) + 2) + "|"]
    for method, other in pairs:
        ratios = (_spread_ratio(groups, method, other) for groups in worlds.values())
        rows.append(f"| `{method}` | `{other}` | {' | '.join(ratios)} |")
    return "\n".join(rows)


def _heads(worlds: Worlds) -> str:
    return " | ".join(f"`{world}`" for world in worlds)


def _spread_ratio(groups: Sequence[Group], method: str, other: str) -> str:
    """A dash where one of the two does not vary at all, of which a ratio says nothing."""
    ours, free = _pooled_variance(groups, method)
    theirs, their_free = _pooled_variance(groups, other)
    if ours == 0 or theirs == 0:
        return NONE
    ratio = ours / theirs
    low, high = ratio / f.ppf(0.975, free, their_free), ratio * f.ppf(0.975, their_free, free)
    return f"{ratio**0.5:.1f}" + interval(low**0.5, high**0.5)


def _pooled_variance(groups: Sequence[Group], method: str) -> tuple[float, int]:
    """Within builds, and its degrees of freedom; builds with one seed say nothing."""
    scores = [group.scores(method) for group in groups if len(group.methods[method]) > 1]
    weights = [len(known) - 1 for known in scores]
    return fmean([variance(known) for known in scores], weights), sum(weights)
