"""A whole sweep: what is not yet done of its trials, the choice they lead to, then of its cells."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graceful_forgetting.results.text import duration
from graceful_forgetting.runtime.artifacts import DiskError, read_json, write_json
from graceful_forgetting.runtime.lock import hold
from graceful_forgetting.runtime.own_files import TUNING, claim_file, list_files
from graceful_forgetting.runtime.progress import DELAY, CountedBar, counted_progress, progress_bar
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.grid import TUNING_FILE, Cell, CellSettings, Grid
from graceful_forgetting.sweeps.identity import CellKeys, finished

if TYPE_CHECKING:
    from graceful_forgetting.sweeps.workers import Outcome

Choices = dict[str, dict[str, dict[str, Any]]]


class Sweep:
    """Runs a grid in its folder; what is finished is skipped.

    Args:
        grid: what to run.
        jobs: cells at once.
        announce: receives one line a cell.
        verbose: announce the stages of every cell too (with one job; the logs of workers have them).
        cluster: run the cells as jobs of this scheduler (`run_cells_on_cluster`); none: on this machine.
        cluster_parameters: of such a job.

    Raises:
        ValueError, FileNotFoundError: anything in the grid that is not valid, before any work.
    """

    def __init__(
        self,
        grid: Grid,
        jobs: int,
        announce: Callable[[str], None],
        verbose: bool = False,
        cluster: str | None = None,
        cluster_parameters: Mapping[str, Any] | None = None,
    ):
        if jobs < 1:
            raise ValueError(f"--jobs is {jobs}; it must be 1 or more")
        self.grid = grid
        self.jobs = jobs
        self.cluster = cluster
        self.cluster_parameters = cluster_parameters or {}
        self.announce = announce
        self.verbose = verbose
        if grid.output_dir == "":
            raise ValueError("output_dir='' names no folder: give one, or '.' for the current folder")
        self.folder = Path(grid.output_dir)
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"output_dir={grid.output_dir!r} is a file: name a folder")
        self.settings = CellSettings(
            grid.output_dir, grid.reference_seed, grid.evaluate_every, grid.curve_rows, grid.keep_models
        )
        self._keys = CellKeys(self.settings)
        self._known_finished: set[tuple[Path, str]] = set()
        # Every recipe is read once, so that a mistake in the last method ends the sweep before the first starts.
        for cell in self._all_cells():
            self._keys.key(cell)

    def _all_cells(self) -> list[Cell]:
        trials = [cell for number in range(self.grid.rounds) for cell in self.grid.trials(number, {})]
        return [*trials, *self.grid.cells({})]

    def list_cells(self) -> list[str]:
        """One line a cell: its folder, and whether it is finished. What waits for a choice is never known to be."""
        tuned = set(self.grid.tune) | set(self.grid.like)
        first = {cell.folder for cell in self.grid.trials(0, {})}
        lines = []
        for cell in self._all_cells():
            chosen_later = cell.method in tuned if cell.split == "final" else cell.folder not in first
            done = not chosen_later and finished(cell, self._keys.key(cell), self.folder)
            lines.append(f"{cell.folder}: {'finished' if done else 'after tuning' if chosen_later else 'to do'}")
        return lines

    def run(self) -> None:
        """Run everything that is missing.

        Raises:
            RuntimeError: cells failed; all others are finished.
            ValueError: another sweep works in the folder, or the data of a cell cannot be run on.
            DiskError: the disk is full, or a cell that is missing cannot be written.
        """
        self._check()
        self._lock = hold(self.folder)
        if self.grid.tune:
            claim_file(self.folder / TUNING_FILE, TUNING)
        choices = self._tune() if self.grid.tune else {}
        failed = self._run(self.grid.cells(choices), "cells")
        if failed:
            shown = "; ".join(f"{outcome.cell.folder}: {outcome.error}" for outcome in failed[:3])
            raise RuntimeError(f"{len(failed)} cells failed and the others are finished: {shown}")

    def _check(self) -> None:
        """Refuse what the data of any method show of a run that would fail, before the first cell starts.

        Raises:
            ValueError: names the learning task, the forgetting set and the method, and the row or setting.
        """
        # Of one method all seeds and trials have the same rows, prompts and quotas.
        missing = [cell for cell in self._all_cells() if not self._finished(cell, self._keys.key(cell))]
        if not missing:
            return
        # Trainers take a second to import, which a finished sweep need not wait for.
        from graceful_forgetting.runs.input_checks import check_inputs
        from graceful_forgetting.sweeps.run_cell import InputsCache

        firsts = {(cell.combination, cell.method): cell for cell in reversed(missing)}
        cache = InputsCache()
        bar = progress_bar("checking cells", "methods", iterable=list(firsts.values())[::-1], delay=DELAY)
        for cell in bar:
            recipe = self._keys.recipe(cell)
            try:
                check_inputs(*recipe, cache.inputs(recipe).inputs)
            except ValueError as error:
                raise ValueError(f"{cell.combination}, methods.{cell.method}: {error}") from error

    def _finished(self, cell: Cell, key: str) -> bool:
        """As `finished`; a file that was found whole is not read again."""
        known = cell.folder, key
        if known not in self._known_finished and finished(cell, key, self.folder):
            self._known_finished.add(known)
        return known in self._known_finished

    def _run(self, cells: Sequence[Cell], what: str) -> list["Outcome"]:
        tasks = [(cell, self._keys.key(cell)) for cell in cells]
        missing = [(cell, key) for cell, key in tasks if not self._finished(cell, key)]
        self.announce(f"{len(cells)} {what}, {len(cells) - len(missing)} finished before; in {self.folder}")
        if not missing:
            return []
        from graceful_forgetting.sweeps.cluster import run_cells_on_cluster
        from graceful_forgetting.sweeps.workers import Outcome, run_cells

        failed: list[Outcome] = []
        start, done = time.perf_counter(), 0

        with self._progress(what, len(missing)) as bar:

            def report(outcome: Outcome) -> None:
                nonlocal done
                done += 1
                if outcome.error is not None:
                    if outcome.error.startswith(DiskError.__name__):
                        # No other cell would fare better.
                        raise DiskError(outcome.error.removeprefix(f"{DiskError.__name__}: "))
                    failed.append(outcome)
                line = f"[{done}/{len(missing)}] {_line(outcome)}"
                if done < len(missing):
                    left = (time.perf_counter() - start) / done * (len(missing) - done)
                    line += f"; about {duration(left)} left"
                if bar is None:
                    self.announce(line)
                else:
                    bar.count(lambda: self.announce(line))

            if self.cluster is None:
                run_cells(missing, self.settings, self.jobs, report, print if bar is None else bar.show)
            else:
                run_cells_on_cluster(missing, self.settings, self.jobs, report, self.cluster, self.cluster_parameters)
        return failed

    def _progress(self, what: str, total: int) -> AbstractContextManager[CountedBar | None]:
        """One bar for all cells; none with `verbose` where they run in this process, with lines and bars of stages."""
        here = self.cluster is None and min(self.jobs, total) == 1
        return nullcontext() if self.verbose and here else counted_progress(what, "cells", total)

    def _tune(self) -> Choices:
        """Every round of trials, each with what the earlier ones have chosen; a record of all that was tried."""
        choices: Choices = {}
        record: dict[str, Any] = {**self._chosen_of_other_parts(), **{group: {} for group in self._groups()}}
        for number in range(self.grid.rounds):
            trials = self.grid.trials(number, choices)
            self._run(trials, "trials" if self.grid.rounds == 1 else f"trials of round {number + 1}")
            self._choose(trials, number, choices, record)
        content = {"seeds": self.grid.validation_seeds, "like": self.grid.like, "choices": record}
        if self._lock is not None:
            write_json(self.folder / TUNING_FILE, content)
            list_files(self.folder, {TUNING_FILE: TUNING})
        self.announce(f"chosen settings: {self.folder / TUNING_FILE}")
        return choices

    def _chosen_of_other_parts(self) -> dict[str, Any]:
        """What the folder's record says of the groups that this part of the grid leaves alone."""
        path = self.folder / TUNING_FILE
        if not self.grid.part or not path.is_file():
            return {}
        known: dict[str, Any] = read_json(path)["choices"]
        return known

    def _choose(self, trials: Sequence[Cell], number: int, choices: Choices, record: dict[str, Any]) -> None:
        """Put the values with the highest mean score over the validation seeds, of this round and those before it, into
        `choices`, and what was tried into `record`."""
        scores = {
            cell.folder: CellResult.load(self.folder / cell.folder / "result.json").score
            for cell in trials
            if finished(cell, self._keys.key(cell), self.folder)
        }
        for group, combinations in self._groups().items():
            for method in self.grid.tune:
                before = choices.get(combinations[0], {}).get(method, {})
                tried = [{**before, **values} for values in self.grid.tried(method, number)]
                if not tried:
                    continue
                known = record[group].setdefault(method, {"chosen": {}, "trials": []})
                known["trials"] += [
                    {"fields": trial, "scores": _trial_values(trials, scores, combinations, method, trial)}
                    for trial in tried
                ]
                usable = [trial for trial in known["trials"] if trial["scores"]]
                if not usable:
                    raise RuntimeError(f"every trial of {method} failed for {group}; see error.txt in their folders")
                chosen = max(usable, key=lambda trial: statistics.fmean(trial["scores"]))["fields"]
                known["chosen"] = chosen
                followers = [name for name, other in self.grid.like.items() if other == method]
                for combination in combinations:
                    choices.setdefault(combination, {}).update(dict.fromkeys([method, *followers], chosen))

    def _groups(self) -> dict[str, list[str]]:
        """Combinations that share a choice."""
        names = [f"{learning}/{forgetting}/{setting}" for learning, forgetting, setting, _ in self.grid.combinations()]
        return {"all": names} if self.grid.tune_together else {name: [name] for name in names}


def _trial_values(
    trials: Sequence[Cell],
    scores: Mapping[Path, float],
    combinations: Sequence[str],
    method: str,
    trial: Mapping[str, Any],
) -> list[float]:
    """Score of one trial by combination and seed; empty if a cell of it failed."""
    own = [c for c in trials if c.combination in combinations and c.method == method and c.trial == trial]
    return [scores[cell.folder] for cell in own] if all(cell.folder in scores for cell in own) else []


def _line(outcome: "Outcome") -> str:
    if outcome.error is not None:
        return f"{outcome.cell.folder}: failed, {outcome.error}"
    made = f"{outcome.stages_made} stage{'' if outcome.stages_made == 1 else 's'} made"
    return f"{outcome.cell.folder}: {outcome.score:.3f} in {duration(outcome.seconds)}, {made}"
