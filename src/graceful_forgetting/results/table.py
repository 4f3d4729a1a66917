"""The table at the end of a run: every arm on every task, as plain text."""

from collections.abc import Callable
from functools import partial
from statistics import fmean

from graceful_forgetting.results.arms import OTHERS, OWN, arm_titles
from graceful_forgetting.results.next_steps import next_steps
from graceful_forgetting.results.result import ArmSummary, RunResult, TaskMetrics, TaskSummary
from graceful_forgetting.results.statistics import PairedInterval
from graceful_forgetting.results.summary import arm_minus_plain, old_share
from graceful_forgetting.results.text import MISSING, estimate, fixed, measured, points, spread
from graceful_forgetting.results.text_tables import aligned


def summary_table(result: RunResult) -> str:
    """Rows: tasks. Columns: arms that were run, then method − plain with its interval. Accuracies are percentages."""
    tasks = result.summary.tasks
    if not tasks:
        return "\n".join(_notes(result))
    titles = arm_titles(result.config)
    arms = [arm for arm in titles if any(arm in task.arms for task in tasks.values())]
    rows = [["task", *(titles[arm] for arm in arms), f"{titles[OWN]} − plain"]]
    for name, task in tasks.items():
        label = f"{name} ({_role(name, task, result)})"
        rows.append([label, *(_cell(task, task.arms.get(arm)) for arm in arms), _difference(task, task.difference)])
    return "\n".join([aligned(rows, ruled=True), "", *_notes(result)])


def _role(name: str, task: TaskSummary, result: RunResult) -> str:
    if task.role == "learning":
        return "learned"
    if task.role == "other":
        return "beside it"
    selection = result.selection.tasks.get(name) if result.selection is not None else None
    return "forgetting" if selection is None or selection.kind is None else f"forgetting, {selection.kind}"


def _cell(task: TaskSummary, arm: ArmSummary | None) -> str:
    return MISSING if arm is None else spread(arm.mean, arm.sd, partial(measured, metric=task.metric))


def _difference(task: TaskSummary, found: PairedInterval | None) -> str:
    if found is None:
        return MISSING
    return estimate(found.difference, found.low, found.high, partial(measured, metric=task.metric))


def _notes(result: RunResult) -> list[str]:
    titles = arm_titles(result.config)
    notes = [_units(result)] if result.summary.tasks else []
    notes += next_steps(result)
    for name, task in result.summary.tasks.items():
        if task.role == "learning":
            found = {arm: arm_minus_plain(task, arm) for arm in OTHERS if arm in task.arms}
            notes += [f"{name}: {titles[arm]} − plain {_difference(task, found[arm])}" for arm in found]
    notes += [_bits(name, result) for name, task in result.summary.tasks.items() if _nothing_right(task)]
    notes += [line for name in result.summary.tasks if (line := _old(name, result))]
    if result.selection is not None:
        whose = f"{titles[OWN]}: " if any(run.arm in OTHERS for run in result.runs) else ""
        updates = sorted({run.unlearn_updates for run in result.runs if run.arm == OWN})
        notes.append(
            f"{whose}{result.selection.scored} self-generated samples scored, {result.selection.chosen} selected and "
            f"unlearned in {' / '.join(map(str, updates))} unlearning updates a run"
        )
    for run in result.runs:
        notes += [f"{titles[run.arm]}, seed {run.seed}: {event}" for event in run.events()]
    return notes


def _nothing_right(task: TaskSummary) -> bool:
    return task.role == "learning" and task.metric == "accuracy" and not any(arm.mean for arm in task.arms.values())


def _bits(name: str, result: RunResult) -> str:
    """Bits per byte of every arm, where accuracy shows nothing."""
    bits = _by_arm(name, result, lambda metrics: metrics.bits_per_byte)
    cells = [f"{title} {fixed(value)}" for title, value in bits.items()]
    return f"{name}: no answer was right in any arm; bits per byte of the given answers: {', '.join(cells)}"


def _old(name: str, result: RunResult) -> str:
    """Share of the old answers in every arm; empty where there are none, or it is not known what is old."""
    shares = _by_arm(name, result, old_share)
    cells = [f"{title} {points(value)}" for title, value in shares.items()]
    return f"{name}: old answers, in %: {', '.join(cells)}" if any(shares.values()) else ""


def _by_arm(name: str, result: RunResult, read: Callable[[TaskMetrics], float | None]) -> dict[str, float]:
    """A number of one task by the title of the arm, mean over the runs that have it."""
    found = {}
    for arm, title in arm_titles(result.config).items():
        metrics = [run.metrics[name] for run in result.runs if run.arm == arm and name in run.metrics]
        known = [value for value in map(read, metrics) if value is not None]
        if known:
            found[title] = fmean(known)
    return found


def _units(result: RunResult) -> str:
    seeds = len(result.provenance.seeds)
    metrics = sorted({task.metric for task in result.summary.tasks.values()})
    units = ", ".join("accuracy in %" if metric == "accuracy" else metric for metric in metrics)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, which shows no spread"
    interval = "; [95 % interval of the paired difference]" if seeds > 1 else ""
    return f"{units}; {spread}{interval}"
