"""Tables over learning rates: whether a gap, and what forgetting gains, is left at the rate that is best."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

from evidence.tables.sweeps import counted
from evidence.tables.table import code, table
from evidence.tables.values import Runs, Worlds, accuracy, difference, gain
from graceful_forgetting.results.text import MISSING, points
from graceful_forgetting.sweeps.comparison import Group


def gains_by_rate(worlds: Worlds, methods: Sequence[str]) -> str:
    """Accuracy of plain fine-tuning, and every method's gain over it in points, at each learning rate of each world."""
    rows = {
        (world, rate): [group for group in runs if _rate(group) == rate]
        for world, runs in worlds.items()
        for rate in sorted({_rate(group) for group in runs})
    }

    def gained(method: str, row: tuple[str, float]) -> str:
        return gain(rows[row], method)

    columns: dict[str, Callable[[tuple[str, float]], str]] = {
        "world": lambda row: code(row[0]),
        "learning rate": lambda row: scientific(row[1]),
        "plain, accuracy": lambda row: accuracy(rows[row], "plain"),
        **{code(name): partial(gained, name) for name in ("never_knew", *methods)},
    }
    return table(rows, columns, f"Runs at a rate: {_runs_at_a_rate(worlds)}.")


def gains_at_best_rates(worlds: Worlds, methods: Sequence[str]) -> str:
    """Every method against plain fine-tuning, each at the learning rate that is best for it on the build.

    The rate of a run is that of the highest mean accuracy over the other seeds of its build, so that no run takes part
    in choosing its own; a build has at least two. The model that never knew has plain fine-tuning's rate.
    """
    plain = {world: _at_best_rates(runs, "plain", "plain") for world, runs in worlds.items()}

    def cell(method: str, world: str) -> str:
        if method not in worlds[world][0].methods:
            return MISSING
        chosen_for = "plain" if method == "never_knew" else method
        return difference(_at_best_rates(worlds[world], method, chosen_for), plain[world])

    columns: dict[str, Callable[[str], str]] = {
        "world": code,
        "plain, accuracy": lambda world: points(fmean(plain[world])),
        **{code(name): partial(cell, name) for name in ("never_knew", *methods)},
    }
    return table(worlds, columns, f"Runs: {_runs_at_a_rate(worlds)}.")


def _at_best_rates(runs: Runs, method: str, chosen_for: str) -> list[float]:
    """Accuracies by build and seed, at the rate that is best for the method `chosen_for` on the build's other seeds."""
    found = []
    for by_rate in _by_build(runs).values():
        for seed in sorted(next(iter(by_rate.values())).methods["plain"]):
            others = {
                rate: fmean(cell.score for other, cell in group.methods[chosen_for].items() if other != seed)
                for rate, group in by_rate.items()
            }
            found.append(by_rate[max(others, key=lambda rate: others[rate])].methods[method][seed].score)
    return found


def _by_build(runs: Runs) -> dict[int, dict[float, Group]]:
    found: dict[int, dict[float, Group]] = {}
    for group in runs:
        found.setdefault(int(_setting(group, "world_seed")), {})[_rate(group)] = group
    return found


def _setting(group: Group, name: str) -> float:
    """Of its plain cells."""
    value: float = next(iter(group.methods["plain"].values())).config[name]
    return value


def _rate(group: Group) -> float:
    return _setting(group, "learning_rate")


def scientific(rate: float) -> str:
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _runs_at_a_rate(worlds: Worlds) -> str:
    """How many seeds a world has, over its builds."""
    builds = {world: _by_build(runs).values() for world, runs in worlds.items()}
    return counted({w: sum(len(next(iter(b.values())).scores("plain")) for b in found) for w, found in builds.items()})
