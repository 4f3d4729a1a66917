"""The result of one cell of a sweep: one small file, from which tables and plots are made.

`docs/result-schema.md` documents every field. A change of the fields raises `CELL_SCHEMA_VERSION`.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from graceful_forgetting.results.result import (
    GuardResult,
    LineSearchResult,
    Metric,
    Provenance,
    StageResult,
    TaskMetrics,
    TrialsResult,
)
from graceful_forgetting.results.schema import added, dataclass_from_plain, json_values
from graceful_forgetting.results.summary import primary_metric
from graceful_forgetting.runtime.artifacts import atomic_file, read_json
from graceful_forgetting.runtime.own_files import CELL, check_file, claim_file, list_files

CELL_SCHEMA_VERSION = 1

CellArm = Literal["plain", "never_knew", "scratch", "lwf"]
# What a method is compared as: plain fine-tuning (K), the model that never knew (N), random samples (R), from scratch
# (S); of several methods that could be one of these, the first in the grid is.
CellRole = Literal["plain", "never_knew", "random", "scratch"]
CellSplit = Literal["final", "validation"]
_DIGITS = 6


@dataclass
class CurvePoint:
    """The learning task after `step` learning updates, on evenly spaced rows of its test set."""

    step: int
    accuracy: float | None
    bits_per_byte: float | None


@dataclass
class ScoreSummary:
    """The ground truth of the scored samples, in the order in which each score ranks them.

    Attributes:
        kinds: letter -> kind, as "c" -> "conflicting".
        rankings: score -> one letter a sample, highest score first.
        crossover: median over samples of the step size at which both terms of the confidence are equal.
        by_step_size: step size in units of `crossover` -> ranking by linear plus quadratic term.
    """

    kinds: dict[str, str]
    rankings: dict[str, str]
    crossover: float | None
    by_step_size: dict[str, str]


@dataclass
class CellSelection:
    """What was unlearned: samples scored and chosen, chosen by task and by kind (where that is known).

    `trials`: None where the scores alone decided.
    """

    scored: int
    chosen: int
    chosen_by_task: dict[str, int]
    chosen_by_kind: dict[str, int]
    unlearn_updates: int
    guard: GuardResult
    trials: TrialsResult | None = added(None)


@dataclass
class CellResult:
    """Everything that one cell measured.

    Attributes:
        learning, forgetting, setting, method, seed, split: where the cell is in the grid.
        position: of method and setting in the grid, for tables in its order.
        role: what the method is compared as, if it is one of the controls.
        key: hash of all that the cell was made from.
        config: every setting, flat.
        learning_rows: learning examples.
        learning_task: name of the learning task in `metrics`.
        answers: of the learning task's test set, one character an item: see `results/measures.py`. Where nothing was
            generated they are the likeliest options, and without options there is none.
        truth_ratios: by item log P(old answer) − log P(right answer), each a mean over tokens, in nats; null for an
            item without an old answer, and instead of the list where no item has one.
        neutral_bits_per_byte: of the neutral text, where the recipe names one.
        scores: only where the ground truth of the samples is known.
        metrics: by task, learning and forgetting.
        stages: time and memory of all that the cell needed, whichever cell made it.
        line_search: what baseline `weight_line_search` found; None of other methods.
    """

    sweep: str
    learning: str
    forgetting: str
    setting: str
    method: str
    arm: CellArm
    role: CellRole | None
    seed: int
    split: CellSplit
    position: list[int]
    key: str
    created: str
    config: dict[str, Any]
    provenance: Provenance
    learning_rows: int
    learning_task: str
    metrics: dict[str, TaskMetrics]
    answers: str
    truth_ratios: list[float | None] | None
    neutral_bits_per_byte: float | None
    curve: list[CurvePoint]
    selection: CellSelection | None
    scores: ScoreSummary | None
    stages: list[StageResult]
    line_search: LineSearchResult | None = added(None)
    cell_schema_version: int = field(default=CELL_SCHEMA_VERSION)

    @cached_property
    def score(self) -> float:
        """The learning task's metric, turned so that higher is better."""
        _, value, higher_is_better = primary_metric(self.metrics[self.learning_task])
        return value if higher_is_better else -value

    @property
    def metric(self) -> Metric:
        """Name of the metric that `score` is: accuracy where it was measured."""
        return primary_metric(self.metrics[self.learning_task])[0]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, the version first, numbers rounded to 6 significant digits."""
        content = json_values(dataclasses.asdict(self), _DIGITS)
        return {"cell_schema_version": content.pop("cell_schema_version"), **content}

    @classmethod
    def from_json(cls, content: Any, where: str = "cell") -> "CellResult":
        """Read what `to_json` wrote, strictly; `where` names the source in errors.

        Raises `ValueError` for another version, a missing or unknown field, or a value of the wrong type.
        """
        if not isinstance(content, dict) or "cell_schema_version" not in content:
            raise ValueError(f"field {where}.cell_schema_version is missing: this is not the result file of a cell")
        version = content["cell_schema_version"]
        if version != CELL_SCHEMA_VERSION:
            raise ValueError(
                f"{where}.cell_schema_version={version!r}: this version of graceful-forgetting reads version "
                f"{CELL_SCHEMA_VERSION} only; read the file with the version that wrote it, or run the sweep again"
            )
        return dataclass_from_plain(cls, content, where)

    def save(self, path: str | Path) -> None:
        """Write the file, atomically, one line a field, and enter it in the list of its folder.

        Raises `ValueError` on a number that JSON does not have, `FileExistsError` for what is not the file of a cell.
        """
        claim_file(path, CELL)
        fields = [f"{json.dumps(k)}: {compact_json(v)}" for k, v in self.to_json().items()]
        with atomic_file(path) as partial:
            partial.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8")
        list_files(Path(path).parent, {Path(path).name: CELL})

    @classmethod
    def load(cls, path: str | Path) -> "CellResult":
        """Read a result file. Raises as `from_json` does, `FileNotFoundError`, and `ValueError` if it was changed."""
        check_file(Path(path))
        return cls.from_json(read_json(path), str(path))


def load_cells(folder: str | Path) -> list[CellResult]:
    """Every final cell of a sweep's folder, in the order of the grid.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a damaged file.
    """
    files = sorted(Path(folder, "cells").glob("*/*/*/*/seed-*/result.json"))
    if not files:
        raise FileNotFoundError(f"--sweep {folder}: there is no result of a cell in {Path(folder, 'cells')}")
    cells = [CellResult.load(file) for file in files]
    return sorted(cells, key=lambda cell: (cell.learning, cell.forgetting, cell.position, cell.seed))


def compact_json(content: Any) -> str:
    """JSON on one line. Raises `ValueError` on NaN or infinity."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
