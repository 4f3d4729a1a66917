"""Tables over tasks of real text: what is learned against what may be forgotten."""

from collections.abc import Callable, Sequence
from statistics import fmean

from graceful_forgetting.results.statistics import paired_interval
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.comparison import Group
from graceful_forgetting.sweeps.differences import NONE, interval, signed

Value = Callable[[CellResult], float | None]


def bits_saved(cell: CellResult) -> float | None:
    """Minus the bits per byte of the learning task's answers: higher is better."""
    bits = cell.metrics[cell.learning_task].bits_per_byte
    return None if bits is None else -bits


def neutral_bits_saved(cell: CellResult) -> float | None:
    """Minus the bits per byte of the neutral text: higher is better; None where the sweep measured none."""
    bits = cell.neutral_bits_per_byte
    return None if bits is None else -bits


def choice_accuracy(cell: CellResult) -> float | None:
    """Chance-adjusted accuracy by likelihood; None for a task without options."""
    choice = cell.metrics[cell.learning_task].choice
    return None if choice is None else choice.adjusted


def methods_by_forgetting(groups: Sequence[Group], value: Value, digits: int) -> str:
    """Gain of every method (rows) over plain fine-tuning with each forgetting set (columns) of one learning task.

    Seeds are paired; intervals are Student's t, 95 %.

    Args:
        groups: of one learning task, each measured; all with the same methods.
        value: what is compared; higher is better.
        digits: behind the point.
    """
    rows = [f"| method | {' | '.join(group.forgetting for group in groups)} |", "|---" * (len(groups) + 1) + "|"]
    for method in groups[0].methods:
        shown = []
        for group in groups:
            known = _known(group, method, value)
            if method == "plain":
                shown.append(f"{abs(fmean(b for _, b in known.values())):.{digits}f}")
            else:
                shown.append(_gain(list(known.values()), digits))
        rows.append(f"| `{method}` | {' | '.join(shown)} |")
    return "\n".join([*rows, "", f"{len(groups[0].methods['plain'])} seeds."])


def _known(group: Group, method: str, value: Value) -> dict[int, tuple[float, float]]:
    """Seed -> the values of the method and of plain fine-tuning, for the seeds where both were measured."""
    found = {}
    for ours, plain in zip(*group.paired(method, "plain"), strict=True):
        a, b = value(ours), value(plain)
        if a is not None and b is not None:
            found[ours.seed] = (a, b)
    return found


def _gain(pairs: Sequence[tuple[float, float]], digits: int) -> str:
    found = paired_interval([a for a, _ in pairs], [b for _, b in pairs])
    return signed(found.difference, digits) + interval(found.low, found.high, digits)


def task_matrix(groups: Sequence[Group], method: str, value: Value, digits: int) -> str:
    """Gain of a method over plain fine-tuning for every learning task (rows) and forgetting set (columns).

    Seeds are paired; intervals are Student's t, 95 %. The last row is the mean over all pairs of tasks, one number a
    seed, so that its interval is over seeds of training and not over tasks.
    """
    learned = list(dict.fromkeys(group.learning for group in groups))
    forgotten = list(dict.fromkeys(group.forgetting for group in groups))
    rows = [f"| learned | plain | {' | '.join(forgotten)} |", "|---" * (len(forgotten) + 2) + "|"]
    by_seed: dict[int, list[float]] = {}
    for task in learned:
        cells, plain_values = {}, []
        for group in groups:
            known = _known(group, method, value)
            if group.learning != task or not known:
                continue
            cells[group.forgetting] = _gain(list(known.values()), digits)
            plain_values += [b for _, b in known.values()]
            for seed, (a, b) in known.items():
                by_seed.setdefault(seed, []).append(a - b)
        if cells:
            shown = [cells.get(name, NONE) for name in forgotten]
            rows.append(f"| {task} | {abs(fmean(plain_values)):.{digits}f} | {' | '.join(shown)} |")
    means = [fmean(values) for values in by_seed.values()]
    over_all = _gain([(mean, 0.0) for mean in means], digits)
    return "\n".join([*rows, "", f"Mean over all pairs: {over_all}; {len(means)} seeds."])
