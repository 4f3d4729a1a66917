"""Tables over archived sweeps: methods, worlds, settings and tasks against each other.

What the cells mean is in `values.py`. A method that a world lacks has a dash there.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import fmean

from scipy.stats import spearmanr

from evidence.tables.table import code, table
from evidence.tables.values import (
    Runs,
    Value,
    Worlds,
    accuracy,
    gain,
    gap,
    gap_share,
    paired,
    scores,
    value_gain,
    values,
)
from graceful_forgetting.results.measures import mean_ranks
from graceful_forgetting.results.text import MISSING, fixed, points, share
from graceful_forgetting.sweeps.comparison import EvidenceRow, Group, evidence_rows

Pairs = Sequence[tuple[str, str]]
"""Two methods each, of which the first is compared with the second."""
_VARIED = re.compile(r"^(?P<field>\w+)-x(?P<factor>[\d.]+)$")
_SHARE_BOUNDS = (0.0, 0.2, 0.4, 1.0)


def counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{world} {number}" for world, number in numbers.items())


# Worlds --------------------------------------------------------------------------------------------------------------


def world_gains(worlds: Worlds, pairs: Pairs = ()) -> str:
    """Every method's gain over plain fine-tuning in every world, in points of accuracy, and its mean rank.

    Args:
        worlds: none, as where nothing is archived yet, is a sentence in place of a table.
        pairs: further rows, the gain of one method over another.
    """
    if not worlds:
        return "Nothing is archived."
    names = list(
        dict.fromkeys(["plain", *(name for runs in worlds.values() for group in runs for name in group.methods)])
    )
    # The model that never knew cannot be trained on the base model.
    ranked = [
        {name: fmean(own) for name in names if name != "never_knew" and (own := scores(runs, name)[0])}
        for runs in worlds.values()
    ]
    ranks = mean_ranks(ranked)

    def cell(runs: Runs, row: tuple[str, str]) -> str:
        return accuracy(runs, "plain") if row == ("plain", "plain") else gain(runs, *row)

    def head(row: tuple[str, str]) -> str:
        method, other = row
        if method == other:
            return "plain, accuracy"
        return code(method) if other == "plain" else f"{code(method)} − {code(other)}"

    return table(
        [*((name, "plain") for name in names), *pairs],
        {
            "method": head,
            **{code(world): partial(cell, runs) for world, runs in worlds.items()},
            "mean rank": lambda row: fixed(ranks[row[0]], 1) if row[0] in ranks and row not in pairs else "",
        },
        f"Runs (seeds of training, over all builds): "
        f"{counted({world: len(scores(runs, 'plain')[0]) for world, runs in worlds.items()})}.",
    )


def world_shares(worlds: Worlds, methods: Sequence[str], guarded: str) -> str:
    """The share of the gap to the never-knew model that methods recover, and how often `guarded` fell back."""

    def shares(method: str, world: str) -> str:
        return gap_share(worlds[world], method)

    def fell_back(world: str) -> str:
        (cells,) = paired(worlds[world], guarded)
        back = sum(cell.selection is not None and cell.selection.guard.fell_back for cell in cells)
        return f"{back} of {len(cells)}"

    columns: dict[str, Callable[[str], str]] = {
        "world": code,
        "gap, points": lambda world: points(gap(worlds[world], methods[-1]).gap, sign=True),
        **{code(name): partial(shares, name) for name in methods},
        f"{code(guarded)} fell back": fell_back,
    }
    return table(worlds, columns)


def readme_gains(worlds: Worlds, in_the_way: Mapping[str, str], methods: Mapping[str, str]) -> str:
    """What forgetting gains over plain fine-tuning, a row a world.

    Args:
        worlds: the archived sweeps.
        in_the_way: world -> what its base model knows that may be in the way.
        methods: heading -> method.
    """
    columns: dict[str, Callable[[str], str]] = {
        "world": code,
        "what is in the way": lambda world: in_the_way[world],
        "plain, %": lambda world: accuracy(worlds[world], "plain"),
        **{head: lambda world, name=name: gain(worlds[world], name) for head, name in methods.items()},
    }
    return table(worlds, columns)


def pair_table(worlds: Worlds, pairs: Pairs, relation: str, cell: Callable[[Runs, str, str], str]) -> str:
    """Pairs of methods by world: `gain` of the first over the second, say, or their `values.spread_ratio`."""

    def compared(runs: Runs, pair: tuple[str, str]) -> str:
        return cell(runs, *pair)

    columns: dict[str, Callable[[tuple[str, str]], str]] = {
        "method": lambda pair: code(pair[0]),
        relation: lambda pair: code(pair[1]),
        **{code(world): partial(compared, runs) for world, runs in worlds.items()},
    }
    return table(pairs, columns)


def one_world(runs: Runs, chosen: Mapping[str, str] | None = None) -> str:
    """Every method in one world: accuracy, its worst run, its gain over plain fine-tuning, and the share of the gap.

    Args:
        runs: of the world.
        chosen: method -> the settings that tuning has chosen, as text, in place of the share of the gap.
    """
    methods = list(runs[0].methods)
    own = {name: scores(runs, name, "plain")[0] for name in methods}

    def share_of_gap(name: str) -> str:
        return "" if name in ("plain", "never_knew") else gap_share(runs, name)

    return table(
        methods,
        {
            "method": code,
            "accuracy": lambda name: points(fmean(own[name])),
            "worst run": lambda name: points(min(own[name])),
            "gain over plain, points": lambda name: "" if name == "plain" else gain(runs, name),
            **({"share of the gap": share_of_gap} if chosen is None else {"chosen": lambda name: chosen.get(name, "")}),
        },
        f"{len(own[methods[-1]])} runs a method, on {len(runs)} builds.",
    )


def best_plain_runs(worlds: Worlds) -> str:
    """What choosing among runs is worth by itself: of each build's plain runs the one with the lowest held-out loss.

    A method that keeps the best of several runs has to be held against this. The held-out losses are those that guarded
    methods compared with. No intervals: all seeds of a build share one best run.
    """

    def best(group: Group) -> float:
        losses = _plain_held_out_losses(group)
        cells = group.methods["plain"]
        return cells[min(cells, key=lambda seed: losses[seed])].score

    def over_builds(runs: Runs, value: Callable[[Group], float]) -> float:
        return fmean(value(group) for group in runs)

    def mean(group: Group) -> float:
        return fmean(group.scores("plain"))

    rows: dict[str, Callable[[Runs], str]] = {
        "plain, accuracy": lambda runs: points(over_builds(runs, mean)),
        "highest less lowest of a build's plain runs": lambda runs: points(
            over_builds(runs, lambda group: max(group.scores("plain")) - min(group.scores("plain"))), sign=True
        ),
        "best of a build's plain runs, less plain": lambda runs: points(
            over_builds(runs, best) - over_builds(runs, mean), sign=True
        ),
    }

    def cell(runs: Runs, row: str) -> str:
        return rows[row](runs)

    numbers = {world: min(len(group.scores("plain")) for group in runs) for world, runs in worlds.items()}
    columns: dict[str, Callable[[str], str]] = {
        "": str,
        **{code(world): partial(cell, runs) for world, runs in worlds.items()},
    }
    return table(rows, columns, f"Plain runs a build: {counted(numbers)}.")


def _plain_held_out_losses(group: Group) -> dict[int, float]:
    """Of plain fine-tuning by seed, as any method of the group has measured it."""
    return {
        seed: cell.selection.guard.plain_held_out_loss
        for cells in group.methods.values()
        for seed, cell in cells.items()
        if cell.selection is not None and cell.selection.guard.plain_held_out_loss is not None
    }


@dataclass(frozen=True)
class Outcome:
    """One run against plain fine-tuning: share of the pool that was chosen, its gain, whether its weights were kept."""

    share: float
    gain: float
    kept: bool


def outcomes(worlds: Worlds, method: str) -> list[Outcome]:
    """Of every run of a guarded method, over all worlds, builds and seeds."""
    found = []
    for runs in worlds.values():
        for ours, plain in zip(*paired(runs, method, "plain"), strict=True):
            assert ours.selection is not None
            chosen = ours.selection.chosen / ours.selection.scored
            found.append(Outcome(chosen, ours.score - plain.score, not ours.selection.guard.fell_back))
    return found


def outcomes_by_share(found: Sequence[Outcome]) -> str:
    """What came of runs, by the share of the pool that was chosen; means are over runs, whatever their world."""
    parts = {"none": [one for one in found if one.share == 0]}
    for low, high in pairwise(_SHARE_BOUNDS):
        parts[f"{100 * low:.0f} to {share(high)}"] = [one for one in found if low < one.share <= high]
    some = [one for one in found if one.share > 0]
    correlation = spearmanr([one.share for one in some], [one.gain for one in some]).statistic
    return table(
        [name for name, runs in parts.items() if runs],
        {
            "share of the pool chosen": str,
            "runs": lambda name: str(len(parts[name])),
            "kept": lambda name: share(fmean(one.kept for one in parts[name])),
            "mean gain, points": lambda name: points(fmean(one.gain for one in parts[name]), sign=True),
        },
        f"Rank correlation of share and gain where any was chosen: {fixed(correlation, 2)}, {len(some)} runs.",
    )


# Settings of a world -------------------------------------------------------------------------------------------------


def gains_by_setting(runs: Runs, methods: Sequence[str], shares_of: str) -> str:
    """Every method's gain over plain fine-tuning in points in each setting, and the share of the gap of one method."""

    def gained(method: str, group: Group) -> str:
        return gain([group], method)

    columns: dict[str, Callable[[Group], str]] = {
        "setting": lambda group: group.setting,
        "plain, accuracy": lambda group: accuracy([group], "plain"),
        **{code(name): partial(gained, name) for name in ("never_knew", *methods)},
        f"gap recovered by {code(shares_of)}": lambda group: gap_share([group], shares_of),
    }
    return table(runs, columns, f"{len(runs[-1].scores('plain'))} seeds a setting.")


def evidence_table(runs: Runs) -> str:
    """Accuracy of every method by the number of learning examples, and the fewest that reach the target."""

    def reached(size: int, row: EvidenceRow) -> str:
        return points(row.by_size.get(size))

    found = evidence_rows(runs)
    sizes = sorted({size for row in found for size in row.by_size})
    return table(
        found,
        {
            "method": lambda row: code(row.method),
            **{f"{size} examples": partial(reached, size) for size in sizes},
            f"needed for {points(found[0].target)}": lambda row: str(row.required or MISSING),
        },
    )


def sensitivity(runs: Runs, default: str) -> str:
    """Gain over plain fine-tuning with the defaults, and with each field at each factor: methods `FIELD-xFACTOR`."""
    varied = {
        (found["field"], float(found["factor"])): name
        for name in runs[0].methods
        if (found := _VARIED.match(name)) is not None
    }

    def cell(factor: float, field: str) -> str:
        method = default if factor == 1 else varied.get((field, factor))
        return "" if method is None else gain(runs, method)

    factors = sorted({factor for _, factor in varied} | {1.0})
    heads = {"default" if factor == 1 else f"× {factor:g}": partial(cell, factor) for factor in factors}
    return table(dict.fromkeys(field for field, _ in varied), {"setting": code, **heads})


# Tasks of real text --------------------------------------------------------------------------------------------------


def methods_by_forgetting(runs: Runs, value: Value, decimals: int) -> str:
    """Gain of every method (rows) over plain fine-tuning with each forgetting set (columns) of one learning task."""

    def cell(group: Group, method: str) -> str:
        pairs = list(values(group, method, value).values())
        # Of bits, which are better when fewer, the value is their negative.
        return fixed(abs(fmean(b for _, b in pairs)), decimals) if method == "plain" else value_gain(pairs, decimals)

    columns: dict[str, Callable[[str], str]] = {
        "method": code,
        **{group.forgetting: partial(cell, group) for group in runs},
    }
    return table(runs[0].methods, columns, f"{len(runs[0].methods['plain'])} seeds.")


def task_matrix(runs: Runs, method: str, value: Value, decimals: int) -> str:
    """Gain of a method over plain fine-tuning for every learning task (rows) and forgetting set (columns).

    Below, the mean over all pairs of tasks, one number a seed, so that its interval is over seeds of training and not
    over tasks. A task of which nothing was measured has no row.
    """
    known = {(group.learning, group.forgetting): values(group, method, value) for group in runs}
    by_seed: dict[int, list[float]] = {}
    for pairs in known.values():
        for seed, (ours, plain) in pairs.items():
            by_seed.setdefault(seed, []).append(ours - plain)
    means = [fmean(found) for found in by_seed.values()]

    def of_plain(learned: str) -> str:
        found = [plain for (task, _), pairs in known.items() if task == learned for _, plain in pairs.values()]
        return fixed(abs(fmean(found)), decimals)

    def cell(forgotten: str, learned: str) -> str:
        return value_gain(list(known.get((learned, forgotten), {}).values()), decimals)

    columns: dict[str, Callable[[str], str]] = {
        "learned": str,
        "plain": of_plain,
        **{name: partial(cell, name) for name in dict.fromkeys(group.forgetting for group in runs)},
    }
    return table(
        dict.fromkeys(learned for (learned, _), pairs in known.items() if pairs),
        columns,
        f"Mean over all pairs: {value_gain([(mean, 0.0) for mean in means], decimals)}; {len(means)} seeds.",
    )
