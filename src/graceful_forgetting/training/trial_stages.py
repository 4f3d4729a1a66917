"""The stages of trial runs: what is tried, and what is chosen by it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graceful_forgetting.config import SelectionConfig
from graceful_forgetting.config.flat import flat_names
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.runtime.hashes import fingerprint_json
from graceful_forgetting.runtime.store import read_rows
from graceful_forgetting.training.preparation import ROWS_FOLDER, SELECTION_FILE, nothing_selected, write_selection
from graceful_forgetting.training.stages import RunDirectory, Stage
from graceful_forgetting.training.trials import Candidate, candidates, chosen_by_trial, describe, loss_unless_diverged


def candidates_stage(
    directory: RunDirectory, scores: Stage, settings: Mapping[str, Any], first: bool
) -> dict[str, Stage]:
    """What may be unlearned, by name, each as the stage of a selection.

    Args:
        directory: of the run.
        scores: the stage of the scored samples.
        settings: those of `SelectionConfig`, and `learned`.
        first: whether each is tried before learning too.
    """

    @flat_names({"forget_": SelectionConfig})
    def build(folder: Path, _: str) -> dict[str, Any]:
        scored = read_rows(scores.path / ROWS_FOLDER)
        values = dict(settings)
        learned = values.pop("learned")
        tried = candidates(scored, SelectionConfig(**values), first, learned)
        for number, candidate in enumerate(tried.values()):
            write_selection(folder / str(number), candidate.selected, candidate.audit)
        return {"candidates": len(tried), "names": list(tried)}

    stage = directory.stage("candidates", {**settings, "first": first}, [scores], build)
    # Told apart by the name, which the trial's key is made of.
    return {
        name: replace(stage, path=stage.path / str(number), key=fingerprint_json([stage.key, name]))
        for number, name in enumerate(stage.detail["names"])
    }


def trial_stage_name(number: int, name: str, seed: int) -> str:
    """Of candidate `name`: numbered, since two names may differ in what no folder can be called."""
    return f"trials/{number}-{re.sub(r'[^A-Za-z0-9_-]+', '-', name)}/seed-{seed}"


def trial_detail(name: str, train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the stage of a trial records: the counts that `train` returns; a loss of None if training diverged."""
    detail: dict[str, Any] = {}

    def held_out_loss() -> float:
        detail.update(train())
        return detail["held_out_loss"]

    loss = loss_unless_diverged(name, held_out_loss)
    return {**detail, "held_out_loss": loss}


def choice_stage(
    directory: RunDirectory,
    tried: Mapping[str, Stage],
    trials: Mapping[str, Stage],
    announce: Callable[[str], None],
) -> Stage:
    """The stage `selection`: the candidate whose trial run had the lowest held-out loss.

    Args:
        directory: of the run.
        tried: the candidates, by name.
        trials: their trial runs, by the same names.
        announce: receives a line on what was found.
    """

    def build(folder: Path, _: str) -> dict[str, Any]:
        losses = {name: trial.detail["held_out_loss"] for name, trial in trials.items()}
        stored = {
            name: Candidate(read_rows(stage.path / ROWS_FOLDER), read_json(stage.path / SELECTION_FILE))
            for name, stage in tried.items()
        }
        chosen = chosen_by_trial(stored, losses)
        write_selection(folder, chosen.selected, chosen.audit)
        announce(describe(chosen.audit))
        if len(chosen.selected) == 0:
            announce(nothing_selected(chosen.audit))
        return {"tried": len(tried), "chosen": len(chosen.selected)}

    return directory.stage("selection", {}, [*tried.values(), *trials.values()], build)
