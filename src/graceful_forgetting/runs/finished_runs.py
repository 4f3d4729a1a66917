"""Finished runs read back from their folders, to be set side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from graceful_forgetting.results.result import RunResult
from graceful_forgetting.runtime.own_files import check_file
from graceful_forgetting.runtime.store import STAGE_FILE, Entry, EntryError, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class FinishedRun:
    """A run: a label that no other run of the comparison has, what it measured, its scored samples.

    `samples` has the column `chosen`; None where the folder no longer has the samples that the result was made from.
    """

    label: str
    result: RunResult
    samples: "Dataset | None"


def load_runs(paths: Sequence[str | Path]) -> list[FinishedRun]:
    """Runs by their folders or result files.

    Raises:
        ValueError: fewer than two, one named twice, a result file that is damaged or was changed.
        FileNotFoundError: a run without a result.
    """
    files = [_result_file(Path(path)) for path in paths]
    if len(files) < 2:
        raise ValueError(f"{len(files)} run to compare: name two or more folders of finished runs")
    twice = [str(path) for path, file in zip(paths, files, strict=True) if files.count(file) > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice: name every run once")
    runs = []
    for label, file in zip(_labels(files), files, strict=True):
        check_file(file)
        result = RunResult.load(file)
        runs.append(FinishedRun(label, result, _samples(file.parent, result)))
    return runs


def _result_file(path: Path) -> Path:
    file = path / RESULT_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"{path}: there is no result of a run; `graceful run` writes {RESULT_FILE} into its output_dir when it ends"
        )
    return file.resolve()


def _labels(files: Sequence[Path]) -> list[str]:
    """The ends of the folders' paths, as long as it takes to tell them apart."""
    places = [file.parent if file.name == RESULT_FILE else file.with_suffix("") for file in files]
    for length in range(1, max(len(place.parts) for place in places) + 1):
        labels = [str(Path(*place.parts[-length:])) for place in places]
        if len(set(labels)) == len(labels):
            break
    return labels


def _samples(folder: Path, result: RunResult) -> "Dataset | None":
    """The scored samples with `chosen`; None where their stages are gone, damaged, or made again after the result."""
    keys = {stage.name: stage.key for stage in result.stages}
    for stage in ("scores", "selection"):
        try:
            if Entry(folder / stage, keys.get(stage, ""), STAGE_FILE).check() is None:
                return None
        except (EntryError, FileExistsError):
            return None
    return with_choice(folder / "scores", folder / "selection")


def with_choice(scores: Path, selection: Path) -> "Dataset":
    """The samples that stage folder `scores` holds, with the column `chosen` from that of the selection."""
    scored = read_rows(scores / "rows")
    chosen = set(read_rows(selection / "rows")["source_index"])
    return scored.add_column("chosen", [index in chosen for index in range(len(scored))])
