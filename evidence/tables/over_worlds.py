"""Tables over several worlds: what each method gains in each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from scipy.stats import spearmanr

from graceful_forgetting.results.measures import mean_ranks
from graceful_forgetting.results.statistics import gap_recovered
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.comparison import Group
from graceful_forgetting.sweeps.differences import gain_over_plain, recovered_share, signed

Worlds = Mapping[str, Sequence[Group]]
"""World -> its groups, one a build; every group with the methods `plain` and `never_knew`."""


def _pairs(groups: Sequence[Group], *methods: str) -> list[list[CellResult]]:
    """The cells of each method over all builds, for the seeds that all have."""
    joined: list[list[CellResult]] = [[] for _ in methods]
    for group in groups:
        for kept, cells in zip(joined, group.paired(*methods), strict=True):
            kept += cells
    return joined


def _scores(cells: list[CellResult]) -> list[float]:
    return [cell.score for cell in cells]


def _signed(share: float) -> str:
    return signed(100 * share)


def _recovered(base: list[CellResult], ours: list[CellResult], never_knew: list[CellResult]) -> tuple[float, str]:
    """The gap to the never-knew model, and the share of it that a method recovers as text."""
    recovered = gap_recovered(_scores(base), _scores(ours), _scores(never_knew))
    return recovered.gap, recovered_share(recovered)


def world_gains(worlds: Worlds) -> str:
    """Every method's gain over plain fine-tuning in every world, in points of accuracy, and its mean rank.

    Seeds are paired within a build and pooled over builds; intervals are Student's t, 95 %.
    """
    methods = [name for name in next(iter(worlds.values()))[0].methods if name != "plain"]
    heads = " | ".join(f"`{world}`" for world in worlds)
    rows = [f"| method | {heads} | mean rank |", "|---" * (len(worlds) + 2) + "|"]
    ranks = mean_ranks(
        [
            {name: fmean(_scores(_pairs(groups, name)[0])) for name in ("plain", *methods) if name != "never_knew"}
            for groups in worlds.values()
        ]
    )
    plain = [fmean(_scores(_pairs(groups, "plain")[0])) for groups in worlds.values()]
    numbers = [len(_pairs(groups, "plain")[0]) for groups in worlds.values()]
    rows.append(f"| plain, accuracy | {' | '.join(f'{100 * mean:.1f}' for mean in plain)} | {ranks['plain']:.1f} |")
    for method in methods:
        cells = [gain_over_plain(groups, method) for groups in worlds.values()]
        rank = f"{ranks[method]:.1f}" if method in ranks else ""
        rows.append(f"| `{method}` | {' | '.join(cells)} | {rank} |")
    counted = ", ".join(f"{world} {number}" for world, number in zip(worlds, numbers, strict=True))
    return "\n".join([*rows, "", f"Runs (seeds of training, over all builds): {counted}."])


def one_world(groups: Sequence[Group], chosen: Mapping[str, str] | None = None) -> str:
    """Every method in one world: accuracy, its gain over plain fine-tuning, the share of the gap, and its worst run.

    Seeds are paired within a build and pooled over builds; intervals are Student's t of gains, bootstrap of shares.

    Args:
        chosen: method -> the settings that tuning has chosen, as text, in place of the share of the gap.
    """
    last = "share of the gap" if chosen is None else "chosen"
    rows = [f"| method | accuracy | worst run | gain over plain, points | {last} |", "|---|---|---|---|---|"]
    for method in groups[0].methods:
        own = _scores(_pairs(groups, method, "plain")[0])
        gain = ""
        share = "" if chosen is None else chosen.get(method, "")
        if method != "plain":
            gain = gain_over_plain(groups, method)
        if chosen is None and method not in ("plain", "never_knew"):
            share = _recovered(*_pairs(groups, "plain", method, "never_knew"))[1]
        rows.append(f"| `{method}` | {100 * fmean(own):.1f} | {100 * min(own):.1f} | {gain} | {share} |")
    return "\n".join([*rows, "", f"{len(own)} runs a method, on {len(groups)} builds."])


def best_plain_runs(worlds: Worlds) -> str:
    """What choosing among runs is worth by itself: of each build's plain runs the one with the lowest held-out loss.

    A method that keeps the best of several runs has to be held against this. The held-out losses are those that guarded
    methods compared with. No intervals: all seeds of a build share one best run.
    """
    heads = " | ".join(f"`{world}`" for world in worlds)
    rows = [f"|  | {heads} |", "|---" * (len(worlds) + 1) + "|"]
    mean, best, spread, numbers = [], [], [], []
    for groups in worlds.values():
        scores = [{seed: cell.score for seed, cell in group.methods["plain"].items()} for group in groups]
        chosen = []
        for group, known in zip(groups, scores, strict=True):
            losses = _plain_held_out_losses(group)
            chosen.append(known[min(known, key=lambda seed: losses[seed])])
        mean.append(fmean(fmean(known.values()) for known in scores))
        best.append(fmean(chosen) - mean[-1])
        spread.append(fmean(max(known.values()) - min(known.values()) for known in scores))
        numbers.append(min(len(known) for known in scores))
    rows.append(f"| plain, accuracy | {' | '.join(f'{100 * value:.1f}' for value in mean)} |")
    rows.append(f"| highest less lowest of a build's plain runs | {' | '.join(_signed(value) for value in spread)} |")
    rows.append(f"| best of a build's plain runs, less plain | {' | '.join(_signed(value) for value in best)} |")
    counted = ", ".join(f"{world} {number}" for world, number in zip(worlds, numbers, strict=True))
    return "\n".join([*rows, "", f"Plain runs a build: {counted}."])


def _plain_held_out_losses(group: Group) -> dict[int, float]:
    """Of plain fine-tuning by seed, as any method of the group has measured it. Raises `KeyError` where none has."""
    losses: dict[int, float] = {}
    for cells in group.methods.values():
        for seed, cell in cells.items():
            if cell.selection is not None and cell.selection.guard.plain_held_out_loss is not None:
                losses[seed] = cell.selection.guard.plain_held_out_loss
    return losses


SHARE_BOUNDS = (0.0, 0.2, 0.4, 1.0)


@dataclass(frozen=True)
class Outcome:
    """One run against plain fine-tuning: share of the pool that was chosen, its gain, whether its weights were kept."""

    share: float
    gain: float
    kept: bool


def outcomes(worlds: Worlds, method: str) -> list[Outcome]:
    """Of every run of a guarded method, over all worlds, builds and seeds."""
    found = []
    for groups in worlds.values():
        for ours, plain in zip(*_pairs(groups, method, "plain"), strict=True):
            assert ours.selection is not None
            share = ours.selection.chosen / ours.selection.scored
            found.append(Outcome(share, ours.score - plain.score, not ours.selection.guard.fell_back))
    return found


def outcomes_by_share(found: Sequence[Outcome]) -> str:
    """What came of runs, by the share of the pool that was chosen; means are over runs, whatever their world."""
    rows = ["| share of the pool chosen | runs | kept | mean gain, points |", "|---|---|---|---|"]
    parts = [("none", [one for one in found if one.share == 0])]
    for low, high in pairwise(SHARE_BOUNDS):
        parts.append((f"{100 * low:.0f} to {100 * high:.0f} %", [one for one in found if low < one.share <= high]))
    for name, runs in parts:
        if runs:
            kept = f"{100 * fmean(one.kept for one in runs):.0f} %"
            rows.append(f"| {name} | {len(runs)} | {kept} | {_signed(fmean(one.gain for one in runs))} |")
    some = [one for one in found if one.share > 0]
    correlation = spearmanr([one.share for one in some], [one.gain for one in some])
    text = f"{correlation.statistic:.2f}".replace("-", "−")
    note = f"Rank correlation of share and gain where any was chosen: {text}, {len(some)} runs."
    return "\n".join([*rows, "", note])


def world_shares(worlds: Worlds, methods: Sequence[str], guarded: str) -> str:
    """The share of the gap to the never-knew model that methods recover, and how often `guarded` fell back."""
    names = " | ".join(f"`{method}`" for method in methods)
    rows = [f"| world | gap, points | {names} | `{guarded}` fell back |", "|---" * (len(methods) + 3) + "|"]
    for world, groups in worlds.items():
        shares, gap = [], 0.0
        for method in methods:
            gap, share = _recovered(*_pairs(groups, "plain", method, "never_knew"))
            shares.append(share)
        cells = _pairs(groups, guarded)[0]
        back = sum(cell.selection is not None and cell.selection.guard.fell_back for cell in cells)
        rows.append(f"| `{world}` | {_signed(gap)} | {' | '.join(shares)} | {back} of {len(cells)} |")
    return "\n".join(rows)
