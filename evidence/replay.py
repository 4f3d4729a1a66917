"""Runs archived cells again, and says whether they give the same numbers.

    python -m evidence.replay evidence/grids/shortcut.yaml lwf 0        method and seed of a grid; the first setting

The archive of evidence/grids/NAME.yaml is evidence/archives/NAME.jsonl. A world that is built anew is another one on
another kind of processor. The models of `shortcut` come with the package.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from graceful_forgetting.sweeps.archive import read_archive
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.grid import CellSettings
from graceful_forgetting.sweeps.grid_file import load_grid
from graceful_forgetting.sweeps.run_cell import InputsCache, run_cell

GRIDS = Path(__file__).parent / "grids"
ARCHIVES = Path(__file__).parent / "archives"


def replay(grid_file: Path, method: str, seed: int) -> tuple[CellResult, CellResult]:
    """One cell as it was archived, and run again from its grid.

    Raises:
        ValueError: the grid or its archive has no such cell.
    """
    archive = ARCHIVES / grid_file.resolve().relative_to(GRIDS).with_suffix(".jsonl")
    old = [cell for cell in read_archive(archive) if (cell.method, cell.seed, cell.split) == (method, seed, "final")]
    grid = load_grid(str(grid_file))
    # What tuning has chosen stands in the archive; the setting that it was chosen for is run as the grid has it.
    new = [cell for cell in grid.cells({}) if (cell.method, cell.seed) == (method, seed)]
    pairs = [(before, cell) for cell in new for before in old if before.setting == cell.setting]
    if not pairs:
        raise ValueError(f"{grid_file} and {archive} have no cell of method {method!r} with seed {seed}")
    before, cell = pairs[0]
    with tempfile.TemporaryDirectory() as folder:
        grid = replace(grid, output_dir=folder)
        settings = CellSettings(
            folder, grid.reference_seed, grid.evaluate_every, grid.curve_rows, keep_models=grid.keep_models
        )
        return before, run_cell(cell, "replay", settings, InputsCache(), lambda line: print(f"  {line}", flush=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("method")
    parser.add_argument("seed", type=int)
    options = parser.parse_args()
    before, now = replay(options.grid, options.method, options.seed)
    same = True
    for task, metrics in before.metrics.items():
        old, new = metrics.accuracy, now.metrics[task].accuracy
        same = same and old == new
        print(f"{task}: {old} archived, {new} now")
    print("the same" if same else "not the same")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
