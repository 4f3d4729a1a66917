"""The comparison of finished runs: one self-contained HTML file that sets them side by side."""

import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graceful_forgetting.report import differences, plots
from graceful_forgetting.report.headline import Verdict, verdict_of
from graceful_forgetting.report.html import long_titles, without_base, write_page
from graceful_forgetting.report.measures import Measure, general_measures
from graceful_forgetting.report.samples import ScoredSamples, read_samples
from graceful_forgetting.report.svg import Figure
from graceful_forgetting.report.table import MAX_ROWS, Head, SampleTable, fit_table, rounded
from graceful_forgetting.results.arms import OWN, arm_titles, method_title
from graceful_forgetting.results.result import TaskSummary
from graceful_forgetting.results.statistics import PairedInterval
from graceful_forgetting.runs.finished_runs import FinishedRun

# More runs side by side cannot be read; a sweep has tables for them.
MAX_RUNS = 12
VERDICTS: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "no_difference": "no difference shown",
    "one_seed": "one seed",
    "no_comparison": "no comparison",
}


@dataclass(frozen=True)
class TaskComparison:
    """One task over the runs: its summary in each (None where it has none), its method against the first's."""

    task: str
    entries: list[TaskSummary | None]
    against_first: list[PairedInterval | None]
    other_rows: bool
    figures: list[Figure]


@dataclass(frozen=True)
class MeasureComparison:
    """One number of general ability over the runs; None where a run has not measured it."""

    subject: str
    metric: str
    entries: list[Measure | None]


def render_comparison(runs: Sequence[FinishedRun], path: str | Path) -> Path:
    """Write the comparison of `runs` to the HTML file `path`; returns it.

    The runs are named A, B, ... in their order, and the first is what the others are compared with. Text is escaped and
    nothing is loaded, as in `render_report`. Raises `ValueError` for fewer than two runs or more than `MAX_RUNS`.
    """
    if not 2 <= len(runs) <= MAX_RUNS:
        raise ValueError(f"{len(runs)} runs: from 2 to {MAX_RUNS} can be compared; more are a sweep (graceful sweep)")
    return write_page("comparison.html", _context(runs), path)


def _context(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    letters = list(string.ascii_uppercase[: len(runs)])
    names = [f"{letter} {run.label}" for letter, run in zip(letters, runs, strict=True)]
    samples = [None if run.samples is None else read_samples(run.samples) for run in runs]
    times = differences.stage_times(runs)
    table, columns = _sample_table(samples, letters)
    configs = [run.result.config for run in runs]
    arm_names = long_titles(*configs)
    return {
        "runs": runs,
        "letters": letters,
        "settings": differences.settings_that_differ(runs),
        "origins": differences.origins_that_differ(runs),
        "learning": _tasks(runs, names, {"learning"}),
        "forgetting": _tasks(runs, names, {"forgetting", "other"}),
        "general": _general(runs),
        "times": times,
        "totals": [sum(time.seconds[run] or 0.0 for time in times) for run in range(len(runs))],
        "peaks": {
            "peak memory": [_highest(stage.peak_memory_bytes for stage in run.result.stages) for run in runs],
            "peak device memory": [
                _highest(stage.peak_device_memory_bytes for stage in run.result.stages) for run in runs
            ],
        },
        "longest": max((seconds for time in times for seconds in time.seconds if seconds), default=0.0),
        "selections": [run.result.selection for run in runs],
        "selected_tasks": list(
            dict.fromkeys(task for run in runs if run.result.selection for task in run.result.selection.tasks)
        ),
        "overlaps": differences.overlaps(samples),
        "without_samples": [name for name, found in zip(names, samples, strict=True) if found is None],
        "table": table,
        "sample_columns": columns,
        "arm_names": arm_names,
        "method": arm_titles(*configs)[OWN],
        "methods": [method_title(config) for config in configs],
        "metric_names": plots.METRIC_NAMES,
        "arms": [arm for arm in arm_names if any(found.arm == arm for run in runs for found in run.result.runs)],
        "verdicts": VERDICTS,
        "verdict_of": verdict_of,
    }


def _highest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _tasks(runs: Sequence[FinishedRun], names: Sequence[str], roles: Collection[str]) -> list[TaskComparison]:
    found = dict.fromkeys(
        task for run in runs for task, summary in run.result.summary.tasks.items() if summary.role in roles
    )
    arm_names = long_titles(*(run.result.config for run in runs))
    tasks = []
    for task in found:
        entries = [run.result.summary.tasks.get(task) for run in runs]
        tasks.append(
            TaskComparison(
                task,
                entries,
                differences.against_first(runs, task),
                differences.evaluated_on_other_rows(runs, task),
                _figures(task, names, entries, arm_names) if "learning" in roles else [],
            )
        )
    return tasks


def _figures(
    task: str, names: Sequence[str], entries: Sequence[TaskSummary | None], arm_names: Mapping[str, str]
) -> list[Figure]:
    """Of the runs that share the first one's metric."""
    measured = {name: entry for name, entry in zip(names, entries, strict=True) if entry is not None}
    metric = next(iter(measured.values())).metric
    shared = {name: entry for name, entry in measured.items() if entry.metric == metric}
    drawn = [
        plots.paired_differences(
            f"{task}: {arm_names[OWN]} − plain", {name: entry.difference for name, entry in shared.items()}
        ),
        plots.arm_dots(f"{task}: every seed", shared, without_base(arm_names)),
    ]
    return [figure for figure in drawn if figure]


def _general(runs: Sequence[FinishedRun]) -> list[MeasureComparison]:
    measured = [{(row.subject, row.metric): row for row in general_measures(run.result.runs)} for run in runs]
    keys = dict.fromkeys(key for found in measured for key in found)
    return [MeasureComparison(*key, [found.get(key) for found in measured]) for key in keys]


def _sample_table(
    samples: Sequence[ScoredSamples | None], letters: Sequence[str]
) -> tuple[SampleTable | None, list[Head]]:
    """Samples of all runs with their percentile in each, those on which the runs differ most first.

    Above `MAX_ROWS`, the samples with the smallest differences are left out. None for fewer than two runs with samples.
    """
    known = [(letter, found) for letter, found in zip(letters, samples, strict=True) if found is not None]
    if len(known) < 2:
        return None, []
    places = [differences.positions(found) for _, found in known]
    union = list(dict.fromkeys(sample for place in places for sample in place))
    ranks = np.full((len(known), len(union)), np.nan)
    chosen_by = [""] * len(union)
    for index, ((letter, found), place) in enumerate(zip(known, places, strict=True)):
        percentiles = 100 * differences.percentile(found.confidence)
        for column, sample in enumerate(union):
            if sample in place:
                ranks[index, column] = percentiles[place[sample]]
                if found.chosen[place[sample]]:
                    chosen_by[column] += (", " if chosen_by[column] else "") + letter
    several = np.isfinite(ranks).sum(axis=0) > 1
    spread = np.full(len(union), np.nan)
    spread[several] = np.nanmax(ranks[:, several], axis=0) - np.nanmin(ranks[:, several], axis=0)
    kept = np.argsort(-spread, kind="stable")[:MAX_ROWS]
    tasks = list(dict.fromkeys(task for task, _, _ in union))
    choices = ["none", *sorted(set(chosen_by) - {""}, key=lambda choice: (len(choice), choice))]
    number_of = {"": 0} | {choice: index for index, choice in enumerate(choices)}
    heads = [
        Head("prompt", "Prompt", "text", "text"),
        Head("completion", "Completion", "text", "text"),
        Head("task", "Task", "label", "task", filter="all tasks"),
        *(Head(f"rank_{letter}", f"Percentile in {letter}", "num", "num slim") for letter, _ in known),
        Head("spread", "Spread", "num", "num slim"),
        Head("chosen", "Chosen by", "label", "flag", filter="any or none"),
    ]
    columns: dict[str, list[Any]] = {
        "task": [tasks.index(union[row][0]) for row in kept],
        **{f"rank_{letter}": rounded(ranks[index, kept]) for index, (letter, _) in enumerate(known)},
        "spread": rounded(spread[kept]),
        "chosen": [number_of[chosen_by[row]] for row in kept],
    }
    texts = {"prompt": [union[row][1] for row in kept], "completion": [union[row][2] for row in kept]}
    return fit_table(texts, columns, {"task": tasks, "chosen": choices}, len(union)), heads
