"""What a run directory holds of the evidence for `graceful advise`, and what came of the run, if it has ended."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from graceful_forgetting.config.confidence import OF_LOSSES
from graceful_forgetting.results.arms import OWN, method_title
from graceful_forgetting.results.result import RunResult
from graceful_forgetting.results.text import estimate, measured
from graceful_forgetting.runs.advice import Evidence, gather_evidence
from graceful_forgetting.runs.finished_runs import RESULT_FILE
from graceful_forgetting.runs.training import UNLEARNING_FILE, line_search_of
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.runtime.store import STAGE_FILE, Entry, read_rows
from graceful_forgetting.training.preparation import ROWS_FOLDER, SELECTION_FILE, TASK_COLUMN, selection_remark

# In the output folder of an `LWFTrainer`.
PREPARATION_FOLDER = "preparation"
COLUMNS = ("forgetting_confidence", "confidence_quadratic", "step_size", "step_size_crossover")


def evidence_of_run(folder: str | Path) -> Evidence:
    """The evidence in the output folder of `graceful run`, or of an `LWFTrainer`; nothing is computed anew.

    Raises:
        FileNotFoundError: no scores or no selection in it.
        EntryError: one of them is damaged.
    """
    folder = Path(folder)
    inside = folder / PREPARATION_FOLDER
    place = inside if (inside / "scores").is_dir() else folder
    found = {name: _record(place, name) for name in ("scores", "selection", "posterior", "self_knowledge")}
    for name in ("scores", "selection"):
        if found[name] is None:
            raise FileNotFoundError(
                f"output_dir={str(folder)!r} holds no stage {name!r} of a run: name the folder of `graceful run` or "
                "of an LWFTrainer, or give --config, and what is missing is made"
            )
    scores, posterior = found["scores"] or {}, found["posterior"] or {}
    scored = read_rows(place / "scores" / ROWS_FOLDER)
    chosen = set(read_rows(place / "selection" / ROWS_FOLDER)["source_index"])
    audit = read_json(place / "selection" / SELECTION_FILE)
    evidence = gather_evidence(
        {name: list(scored[name]) for name in COLUMNS},
        scored[TASK_COLUMN],
        [index in chosen for index in range(len(scored))],
        _interference(place, found),
        # Rows that come scored say nothing of the scorer.
        scores["settings"].get("scorer", "given"),
        posterior.get("detail", {}).get("reference_fraction", 1.0),
        selection_remark(audit),
        audit["settings"]["learned"],
    )
    return replace(evidence, line_search=tuple(_line_searches(folder)))


def outcome(folder: str | Path) -> str | None:
    """What the result in a run directory says of the learning task, in a line; none without a result of these scores.

    Raises `ValueError` for a damaged result.
    """
    file = Path(folder) / RESULT_FILE
    if not file.is_file():
        return None
    result = RunResult.load(file)
    record = _record(Path(folder), "scores")
    keys = {stage.name: stage.key for stage in result.stages}
    if record is None or keys.get("scores") != record["key"]:
        return None
    task, summary = next((item for item in result.summary.tasks.items() if item[1].role == "learning"), (None, None))
    if summary is None or summary.difference is None or OWN not in summary.arms:
        return None
    difference, title = summary.difference, method_title(result.config)
    show = partial(measured, metric=summary.metric)
    return (
        f"{title} − plain on {task}: {estimate(difference.difference, difference.low, difference.high, show)} "
        f"({summary.metric}, {difference.n} seed{'s' if difference.n > 1 else ''}; plain "
        f"{show(summary.arms['plain'].mean)})"
    )


def _line_searches(folder: Path) -> Iterator[float]:
    """λ* of every run of the own method that a baseline has made a line search of."""
    for arm in sorted((folder / OWN).glob("seed-*")):
        if _record(folder / OWN, arm.name) is not None:
            found = line_search_of(read_json(arm / UNLEARNING_FILE))
            if found is not None:
                yield found.chosen


def _record(place: Path, name: str) -> dict[str, Any] | None:
    """The record of a finished stage, undamaged; none where there is no such stage."""
    file = place / name / STAGE_FILE
    if not file.is_file():
        return None
    return Entry(place / name, read_json(file)["key"], STAGE_FILE).check()


def _interference(place: Path, found: dict[str, dict[str, Any] | None]) -> list[float | None] | None:
    """L(x; θ*_L) − L(x; θ_base) by sample: of the scores, or of the stage that `graceful advise` makes for others."""
    scorer = (found["scores"] or {})["settings"].get("scorer")
    stage = "scores" if scorer in OF_LOSSES else "effect_of_learning"
    record = _record(place, stage)
    sources = [(found[name] or {}).get("checksum") for name in ("self_knowledge", "posterior")]
    if record is None or record["inputs"] != sources:
        return None
    rows = read_rows(place / stage / ROWS_FOLDER)
    return [
        None if before is None or after is None else after - before
        for before, after in zip(rows["loss"], rows["reference_loss"], strict=True)
    ]
