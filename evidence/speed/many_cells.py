"""Time of listing, resuming and reporting a finished sweep of many cells.

    python -m evidence.speed.many_cells [--seeds 10] [--output evidence/speed/many-cells.json]

A grid of 5 learning tasks, 4 forgetting sets, 10 methods and `seeds` seeds, 200 cells a seed. No cell is trained: each
gets the result of a real cell of the archive of `shortcut`, written as a sweep writes it, under its own key. Measured
are whole commands, the start of Python included: `graceful sweep --dry_run`, `graceful sweep` with nothing left to do
(which reports), and `graceful report --sweep`.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import yaml

from evidence.reliability.tiny import write_inputs
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.sweeps.archive import read_archive
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.grid import CellSettings
from graceful_forgetting.sweeps.grid_file import load_grid
from graceful_forgetting.sweeps.identity import CellKeys

ARCHIVE = Path(__file__).parents[1] / "archives" / "shortcut.jsonl"
LEARNING, FORGETTING = 5, 4
SCORERS = ("lwf", "interference", "gradient_conflict", "gradient_cosine", "loss")
METHODS = {
    "plain": {"arm": "plain"},
    "never_knew": {"arm": "never_knew"},
    "random": {"forget_strategy": "random"},
    **{name: {"confidence_scorer": name} for name in SCORERS},
    "lwf_twice": {"confidence_scorer": "lwf", "unlearn_every": 2},
    "lwf_thrice": {"confidence_scorer": "lwf", "unlearn_every": 3},
}


def write_grid(folder: Path, seeds: int) -> Path:
    """A grid file with its tasks and models, in `folder`; its sweep goes to `folder/sweep`."""
    _, tiny = write_inputs(folder, folder / "sweep")
    content = yaml.safe_load(tiny.read_text(encoding="utf-8"))
    for name in ("base", "never_knew"):
        shutil.copytree(folder / "model", folder / "pair" / name)
    for number in range(LEARNING):
        shutil.copytree(folder / "learn", folder / f"learn-{number}")
    for number in range(FORGETTING):
        shutil.copytree(folder / "forget", folder / f"forget-{number}")
    content |= {
        "base": {**content["base"], "model_name_or_path": str(folder / "pair")},
        "learning": {f"learn-{number}": str(folder / f"learn-{number}") for number in range(LEARNING)},
        "forgetting": {f"forget-{number}": [str(folder / f"forget-{number}")] for number in range(FORGETTING)},
        "methods": METHODS,
        "seeds": list(range(seeds)),
    }
    grid = folder / "many.yaml"
    grid.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return grid


def write_cells(config: Path) -> int:
    """The results of all cells of a grid, as a sweep writes them; how many."""
    grid = load_grid(str(config))
    settings = CellSettings(
        grid.output_dir, grid.reference_seed, grid.evaluate_every, grid.curve_rows, grid.keep_models
    )
    keys, dice = CellKeys(settings), random.Random(0)
    real: dict[str, list[CellResult]] = {}
    for found in read_archive(ARCHIVE):
        real.setdefault(found.arm, []).append(found)
    cells = grid.cells({})
    for cell in cells:
        result = replace(
            dice.choice(real[cell.arm]),
            **{
                name: getattr(cell, name)
                for name in ("sweep", "learning", "forgetting", "setting", "method", "arm", "role", "seed", "split")
            },
            position=list(cell.position),
            key=keys.key(cell),
        )
        result.save(Path(grid.output_dir) / cell.folder / "result.json")
    return len(cells)


def seconds(*arguments: str) -> float:
    """Of a whole command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "graceful_forgetting.cli", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="keep the sweep there")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        config = write_grid(folder, arguments.seeds)
        number = write_cells(config)
        times = {
            "listed": seconds("sweep", "--config", str(config), "--dry_run"),
            "resumed and reported": seconds("sweep", "--config", str(config), "--quiet"),
            "reported": seconds("report", "--sweep", str(folder / "sweep")),
        }
        report = (folder / "sweep" / "report.html").stat().st_size
    print(f"{number} cells:", ", ".join(f"{name} {found:.1f} s" for name, found in times.items()))
    print(f"report.html {report / 2**20:.1f} MiB")
    if arguments.output is not None:
        write_json(arguments.output, {"cells": number, "seconds": times, "report_bytes": report})


if __name__ == "__main__":
    main()
