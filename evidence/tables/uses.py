"""Tables over the uses of a real model: a method against plain fine-tuning at its best."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from evidence.tables.table import code, table
from evidence.tables.values import Runs, Value, bits_saved, difference, gain, paired, scores, value_gain, values
from graceful_forgetting.results.measures import answer_split, auroc, expanded
from graceful_forgetting.results.statistics import paired_interval
from graceful_forgetting.results.text import fixed, points
from graceful_forgetting.sweeps.cell import CellResult

BY_DRAW = "plain-by-draw"
"""Plain fine-tuning at the rate that is best for each draw of rows."""
REHEARSAL = "rehearsal"
"""The method that retains own answers and unlearns next to nothing."""


def one_use(runs: Runs) -> str:
    """Every method in one use: its learning rate, accuracy, worst run, and what it gains over plain fine-tuning.

    Plain fine-tuning at several rates is several methods, `plain` and `plain-<rate>`. The gain is over the one that is
    best on these very runs, so that a rate which was chosen badly for it flatters no method.
    """
    methods = list(runs[0].methods)
    own = {name: scores(runs, name)[0] for name in methods}
    rates = {name: next(iter(cells.values())).config["learning_rate"] for name, cells in runs[0].methods.items()}
    best = max((name for name in methods if name.startswith("plain")), key=lambda name: fmean(own[name]))
    return table(
        methods,
        {
            "method": code,
            "learning rate": lambda name: f"{rates[name]:g}",
            "seeds": lambda name: str(len(own[name])),
            "accuracy, %": lambda name: points(fmean(own[name])),
            "worst run": lambda name: points(min(own[name])),
            f"gain over {best}, points": lambda name: "" if name == best else gain(runs, name, best),
        },
        "Pairs of runs with the same seed.",
    )


def rows_for_as_much(forgets: Runs, method: str, more: Runs) -> str:
    """A method that forgets against plain fine-tuning on more labelled rows, by seed."""
    own, plain = forgets[0].methods[method], more[0].methods["plain"]
    seeds = sorted(own.keys() & plain.keys())
    by_way = {method: [own[seed] for seed in seeds], "plain": [plain[seed] for seed in seeds]}
    accuracies = {name: [cell.score for cell in cells] for name, cells in by_way.items()}
    behind = difference(accuracies[method], accuracies["plain"])
    return table(
        by_way,
        {
            "method": code,
            "labelled rows": lambda name: str(by_way[name][0].learning_rows),
            "seeds": lambda name: str(len(by_way[name])),
            "accuracy, %": lambda name: points(fmean(accuracies[name])),
            "worst run": lambda name: points(min(accuracies[name])),
            "gain over plain, points": lambda name: behind if name == method else "",
        },
        "Pairs of runs with the same seed.",
    )


@dataclass(frozen=True)
class _Run:
    """One run of a use: shares of new and of old answers, and of answers of the other task that are harmed."""

    new: float
    old: float
    harmed: float

    @classmethod
    def of(cls, cell: CellResult, other: str) -> "_Run":
        """Of a cell; of task `other` every answer that is not right is harmed."""
        return cls(cell.score, answer_split(cell.answers)["old"], 1 - (cell.metrics[other].accuracy or 0.0))

    def within(self, most: float) -> float:
        """The new answers, or none where more than `most` is harmed."""
        return self.new if self.harmed <= most + 1e-6 else 0.0


def use_and_harm(runs: Runs, other: str, most: float | None = None) -> str:
    """Every method in one use that may harm another task: new, old and polluted answers, and the gain over plain.

    A run counts with its new answers where it pollutes little enough, else with none. By that measure every method is
    held against the best rate of plain fine-tuning on these very runs, and against the best of each single draw of
    rows, which nobody could know beforehand.

    Args:
        other: the task that may be harmed; every answer that is not right is polluted.
        most: share of polluted answers up to which a run counts; without it no gain is told.
    """
    methods = runs[0].methods
    rates = {name: f"{next(iter(cells.values())).config['learning_rate']:g}" for name, cells in methods.items()}
    found = {name: {seed: _Run.of(cell, other) for seed, cell in cells.items()} for name, cells in methods.items()}
    columns: dict[str, Callable[[str], str]] = {
        "method": code,
        "learning rate": rates.__getitem__,
        "seeds": lambda name: str(len(found[name])),
        "new, %": lambda name: points(fmean(run.new for run in found[name].values())),
        "old, %": lambda name: points(fmean(run.old for run in found[name].values())),
        "polluted, %": lambda name: points(fmean(run.harmed for run in found[name].values())),
    }
    if most is None:
        return table(methods, columns | {"worst run": lambda name: points(max(r.harmed for r in found[name].values()))})
    plain = [name for name in methods if name.startswith("plain")]
    seeds = sorted(set().union(*(found[name] for name in plain)))
    by_draw = {
        seed: max((found[name][seed] for name in plain if seed in found[name]), key=lambda run: run.within(most))
        for seed in seeds
    }
    counted = {name: {seed: run.within(most) for seed, run in own.items()} for name, own in found.items()}
    best = max(plain, key=lambda name: fmean(counted[name].values()))
    found[BY_DRAW], rates[BY_DRAW] = by_draw, "the best of each draw"
    counted[BY_DRAW] = {seed: run.within(most) for seed, run in by_draw.items()}

    def over(name: str, rival: str) -> str:
        both = sorted(set(counted[name]) & set(counted[rival]))
        return difference([counted[name][seed] for seed in both], [counted[rival][seed] for seed in both])

    limit = f"{points(most)} %"
    rivals = [name for name in methods if not name.startswith("plain") and name != REHEARSAL]
    against = rivals if REHEARSAL in methods else []
    beyond = "".join(f" `{name}` gains {over(name, REHEARSAL)} over `{REHEARSAL}`." for name in against)
    columns |= {
        f"runs within {limit}": lambda name: str(sum(run.within(most) > 0 for run in found[name].values())),
        "new where within, %": lambda name: points(fmean(counted[name].values())),
        f"gain over {best}, points": lambda name: "" if name == best else over(name, best),
        f"gain over {BY_DRAW}": lambda name: "" if name == BY_DRAW else over(name, BY_DRAW),
    }
    return table(
        found,
        columns,
        f"Pairs of runs with the same seed. A run that pollutes more than {limit} counts as 0 in the last three "
        f"columns.{beyond}",
    )


def asked_again(runs: Runs, method: str, other: str, again: tuple[str, str]) -> str:
    """Every method in one use whose tests are asked twice, and what one of them gains over the others there.

    Args:
        method: the one.
        other: the task that may be harmed; every answer that is not right is polluted.
        again: the learning task's test and that of `other`, asked in the other way.
    """
    methods = runs[0].methods
    learned, harmed = again
    rates = {name: next(iter(cells.values())).config["learning_rate"] for name, cells in methods.items()}

    def right(name: str, task: str) -> list[float]:
        return _right(methods[name].values(), task)

    def gained(name: str) -> str:
        ours, theirs = paired(runs, method, name)
        return "" if name == method else difference(_right(ours, learned), _right(theirs, learned))

    return table(
        methods,
        {
            "method": code,
            "learning rate": lambda name: f"{rates[name]:g}",
            "seeds": lambda name: str(len(methods[name])),
            "new, %": lambda name: points(fmean(cell.score for cell in methods[name].values())),
            "polluted, %": lambda name: points(1 - fmean(right(name, other))),
            "new there, %": lambda name: points(fmean(right(name, learned))),
            "worst run": lambda name: points(min(right(name, learned))),
            "polluted there, %": lambda name: points(1 - fmean(right(name, harmed))),
            f"`{method}` gains there, points": gained,
        },
    )


def _right(cells: Iterable[CellResult], task: str) -> list[float]:
    return [cell.metrics[task].accuracy or 0.0 for cell in cells]


def found_in_pool(runs: Runs, method: str, score: str) -> str:
    """How well a score finds what is labelled as conflicting in the pool of a use, and what of it a method chooses."""
    cells = list(runs[0].methods[method].values())
    rankings = [expanded(cell.scores.rankings[score]) for cell in cells if cell.scores is not None]
    found = [auroc(ranking, "c") or 0.0 for ranking in rankings]
    chosen = [cell.selection.chosen_by_kind for cell in cells if cell.selection is not None]

    def of(letter: str, kind: str) -> str:
        return f"{fmean(one.get(kind, 0) for one in chosen):.0f} of {rankings[0].count(letter)}"

    return table(
        [score],
        {
            "score": code,
            "seeds": lambda _: str(len(found)),
            "AUROC": lambda _: fixed(fmean(found), 3),
            "worst run": lambda _: fixed(min(found), 3),
            "chosen that conflict": lambda _: of("c", "conflicting"),
            "chosen of the others": lambda _: of("n", "neutral"),
        },
        "Chosen: mean over seeds.",
    )


def learned_tasks(runs: Runs, method: str) -> str:
    """What a method does where each task is learned while the others may be forgotten, and whether it helped.

    Accuracy is that of the likeliest option; the bits are those of right answers. The last row has all pairs of runs.
    """

    def pairs(groups: Runs, value: Value) -> list[tuple[float, float]]:
        return [pair for group in groups for pair in values(group, method, value).values()]

    def accuracies(groups: Runs) -> tuple[list[float], list[float]]:
        ours, plain = zip(*pairs(groups, _likeliest_is_right), strict=True)
        return list(ours), list(plain)

    def helped(groups: Runs) -> str:
        found = paired_interval(*accuracies(groups))
        if found.low is None or found.high is None or found.low <= 0 <= found.high:
            return "cannot be told"
        return "yes" if found.low > 0 else "no, it harmed"

    def chosen(groups: Runs) -> str:
        cells = [cell for group in groups for cell in group.methods[method].values()]
        found = [cell.selection for cell in cells if cell.selection is not None]
        return f"{fmean(one.chosen for one in found):.0f} of {fmean(one.scored for one in found):.0f}"

    return table(
        [*([group] for group in runs), *([runs] if len(runs) > 1 else [])],
        {
            "learned": lambda groups: code(groups[0].learning) if len(groups) == 1 else "all",
            "pairs": lambda groups: str(len(pairs(groups, _likeliest_is_right))),
            "plain, %": lambda groups: points(fmean(accuracies(groups)[1])),
            f"{method}, %": lambda groups: points(fmean(accuracies(groups)[0])),
            "gain, points": lambda groups: difference(*accuracies(groups)),
            "bits per byte saved": lambda groups: value_gain(pairs(groups, bits_saved), 3),
            "of the others": lambda groups: value_gain(pairs(groups, _others_bits_saved), 3),
            "chosen": chosen,
            "did forgetting help": helped,
        },
        "Pairs of runs with the same seed. Chosen: mean over runs.",
    )


def _likeliest_is_right(cell: CellResult) -> float | None:
    """Share of the learned task's rows whose right option has the highest log-likelihood per byte."""
    choice = cell.metrics[cell.learning_task].choice
    return None if choice is None else choice.accuracy_per_byte


def _others_bits_saved(cell: CellResult) -> float | None:
    """Minus the bits per byte of right answers, mean over the tasks that are not learned."""
    bits = [metrics.bits_per_byte for name, metrics in cell.metrics.items() if name != cell.learning_task]
    known = [value for value in bits if value is not None]
    return -fmean(known) if known else None


@dataclass(frozen=True)
class PoolRanking:
    """The pool of a use in the order of a score, a letter a sample: c conflicting, h helpful, n neutral.

    Attributes:
        learned: share of the learning task's loss that the reference run has removed.
        ranking: highest score first, as `run_lengths` writes it.
        chosen: the samples above the scorer's usual threshold, in the same form and no order.
    """

    use: str
    seed: int
    scorer: str
    learned: float
    ranking: str
    chosen: str


def scores_of_uses(archive: Path) -> str:
    """How well the scores of losses find what is labelled as conflicting, over seeds, where nothing is unlearned."""
    found: dict[tuple[str, str], list[PoolRanking]] = {}
    for line in archive.read_text(encoding="utf-8").splitlines():
        ranking = PoolRanking(**json.loads(line))
        found.setdefault((ranking.use, ranking.scorer), []).append(ranking)
    aurocs = {row: [auroc(expanded(one.ranking), "c") or 0.0 for one in own] for row, own in found.items()}

    def chosen(row: tuple[str, str], conflicting: bool) -> str:
        def mean(rankings: list[str]) -> str:
            return f"{fmean(sum((letter == 'c') == conflicting for letter in expanded(one)) for one in rankings):.0f}"

        own = found[row]
        return f"{mean([one.chosen for one in own])} of {mean([one.ranking for one in own])}"

    return table(
        sorted(found),
        {
            "use": lambda row: code(row[0]),
            "score": lambda row: code(row[1]),
            "seeds": lambda row: str(len(found[row])),
            "AUROC": lambda row: fixed(fmean(aurocs[row]), 3),
            "worst run": lambda row: fixed(min(aurocs[row]), 3),
            "chosen that conflict": lambda row: chosen(row, True),
            "chosen of the others": lambda row: chosen(row, False),
        },
        "Chosen: mean over seeds.",
    )
