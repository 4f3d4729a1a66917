"""Cells of a sweep as a grid would make them, for the tests of files, tables and reports."""

import random

from graceful_forgetting.results.result import GuardResult, Hardware, Provenance, StageResult, TaskMetrics
from graceful_forgetting.sweeps.cell import CellResult, CellSelection, CurvePoint, ScoreSummary

METHODS = {"plain": ("plain", 0.5), "never_knew": ("never_knew", 0.9), "random": ("lwf", 0.6), "lwf": ("lwf", 0.7)}
ITEMS = 40


def cell(
    method: str, seed: int, learning: str = "sums", forgetting: str = "mixed", rows: int = 100, shift: float = 0.0
) -> CellResult:
    arm, level = METHODS.get(method, ("lwf", 0.65))
    draw = random.Random(f"{method} {seed} {learning} {rows}")
    right = [draw.random() < level + shift for _ in range(ITEMS)]
    answers = "".join("1" if ok else draw.choice("0-") for ok in right)
    metrics = {
        learning: TaskMetrics("learning", sum(right) / ITEMS, sum(right), ITEMS, 0.5, 0.25, 0),
        "color": TaskMetrics("forgetting", 0.4, 4, 10, 1.5, 0.75, 0),
    }
    forgets = arm == "lwf"
    return CellResult(
        sweep="<b>tiny</b>",
        learning=learning,
        forgetting=forgetting,
        setting="default" if rows == 100 else f"n{rows}",
        method=method,
        arm=arm,
        role=method if method in ("plain", "never_knew", "random") else None,
        seed=seed,
        split="final",
        position=[0 if rows == 100 else 1, list(METHODS).index(method) if method in METHODS else 9],
        key=f"{method}{seed}",
        created="2026-11-24T00:00:00+00:00",
        config={"seed": seed, "learning_rate": 1e-3, **({"unlearn_every": 5} if forgets else {})},
        provenance=Provenance({"torch": "2"}, "3.11", "Linux", None, Hardware(2, 1, 2**34, []), "m", {}, None, [0], []),
        learning_rows=rows,
        learning_task=learning,
        metrics=metrics,
        answers=answers,
        neutral_bits_per_byte=2.5,
        truth_ratios=[round(draw.gauss(-level, 1), 3) for _ in range(ITEMS - 1)] + [None],
        curve=[CurvePoint(step, level * step / 20, 1.0) for step in (0, 10, 20)],
        selection=CellSelection(9, 3, {"color": 3}, {"conflicting": 3}, 2, GuardResult(False, None, None))
        if forgets
        else None,
        scores=ScoreSummary({"c": "conflicting"}, {"lwf": "c3h2n"}, 0.5, {"1": "c2hcn2"}) if forgets else None,
        stages=[StageResult(f"{arm}/seed-{seed}", "run", 1.5, 2**28, None, f"{method}{seed}{rows}", {"updates": 3})],
    )


def some_cells() -> list[CellResult]:
    """Four methods with five seeds on two learning tasks, and on the first with few rows."""
    found = [cell(method, seed, lea) for lea in ("sums", "words") for method in METHODS for seed in range(5)]
    return found + [cell(m, s, "sums", rows=25, shift=-0.2) for m in METHODS for s in range(5)]
