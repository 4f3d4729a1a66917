"""Tables over learning rates: whether a gap, and what forgetting gains, is left at the rate that is best."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from graceful_forgetting.results.statistics import paired_interval
from graceful_forgetting.sweeps.comparison import Group
from graceful_forgetting.sweeps.differences import NONE, gain_over_plain, points

Worlds = Mapping[str, Sequence[Group]]
"""World -> its groups, one a build and learning rate; every group with the methods `plain` and `never_knew`."""


def _where(group: Group) -> tuple[int, float]:
    """Build and learning rate, as the cells' settings have them."""
    cell = next(iter(group.methods["plain"].values()))
    return cell.config["world_seed"], cell.config["learning_rate"]


def _by_build(groups: Sequence[Group]) -> dict[int, dict[float, Group]]:
    found: dict[int, dict[float, Group]] = {}
    for group in groups:
        build, rate = _where(group)
        found.setdefault(build, {})[rate] = group
    return found


def _rate(rate: float) -> str:
    mantissa, exponent = f"{rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def gains_by_rate(worlds: Worlds, methods: Sequence[str]) -> str:
    """Accuracy of plain fine-tuning, and every method's gain over it in points, at each learning rate of each world.

    Seeds are paired within a build and pooled over builds; intervals are Student's t, 95 %.

    Args:
        worlds: the cells.
        methods: the columns, beside `plain` and `never_knew`; a world without one has a dash.
    """
    heads = " | ".join(f"`{method}`" for method in methods)
    rows = [f"| world | learning rate | plain, accuracy | `never_knew` | {heads} |", "|---" * (len(methods) + 4) + "|"]
    for world, groups in worlds.items():
        for rate in sorted({_where(group)[1] for group in groups}):
            here = [group for group in groups if _where(group)[1] == rate]
            plain = fmean(score for group in here for score in group.scores("plain"))
            gains = [
                gain_over_plain(here, method) if method in here[0].methods else NONE
                for method in ("never_knew", *methods)
            ]
            rows.append(f"| `{world}` | {_rate(rate)} | {100 * plain:.1f} | {' | '.join(gains)} |")
    return "\n".join([*rows, "", f"Runs at a rate: {_runs(worlds)}."])


def gains_at_best_rates(worlds: Worlds, methods: Sequence[str]) -> str:
    """Every method against plain fine-tuning, each at the learning rate that is best for it on the build.

    The rate of a run is that of the highest mean accuracy over the other seeds of its build, so that no run takes part
    in choosing its own. The model that never knew has plain fine-tuning's rate.

    Args:
        worlds: the cells, at least two seeds a build.
        methods: the columns, beside `plain` and `never_knew`; a world without one has a dash.
    """
    heads = " | ".join(f"`{method}`" for method in methods)
    rows = [f"| world | plain, accuracy | `never_knew` | {heads} |", "|---" * (len(methods) + 3) + "|"]
    for world, groups in worlds.items():
        plain = _at_best_rates(groups, "plain", "plain")
        cells = []
        for method in ("never_knew", *methods):
            if method not in groups[0].methods:
                cells.append(NONE)
                continue
            ours = _at_best_rates(groups, method, "plain" if method == "never_knew" else method)
            found = paired_interval(ours, plain)
            cells.append(points(found))
        rows.append(f"| `{world}` | {100 * fmean(plain):.1f} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", f"Runs: {_runs(worlds)}."])


def _at_best_rates(groups: Sequence[Group], method: str, chosen_for: str) -> list[float]:
    """Accuracies by build and seed, at the rate that is best for the method `chosen_for` on the build's other seeds."""
    found = []
    for by_rate in _by_build(groups).values():
        seeds = sorted(next(iter(by_rate.values())).methods["plain"])
        for seed in seeds:
            others = {
                rate: fmean(cell.score for other, cell in group.methods[chosen_for].items() if other != seed)
                for rate, group in by_rate.items()
            }
            found.append(by_rate[max(others, key=lambda rate: others[rate])].methods[method][seed].score)
    return found


def _runs(worlds: Worlds) -> str:
    """How many seeds a world has, over its builds."""
    counted = []
    for world, groups in worlds.items():
        builds = _by_build(groups).values()
        counted.append(f"{world} {sum(len(next(iter(rates.values())).scores('plain')) for rates in builds)}")
    return ", ".join(counted)
