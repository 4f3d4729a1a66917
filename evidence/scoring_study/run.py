"""Every scorer, step size and Fisher estimator in every world with ground truth: which finds what conflicts?

    python -m evidence.scoring_study.run [--output FILE] [--worlds shortcut ...] [--builds 0 1 2]

For each world and build (made on first use) it trains `--seeds` reference runs (`--other_seeds` on builds other than
0), estimates the Fisher information by each estimator at θ*_L and at θ_base, and scores the mixed pool of all
forgetting tasks. One JSON line a setting; runs that are in the file are skipped. `python -m evidence.make_tables` and
`python -m evidence.make_results` make docs/scoring-study.md of it.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import disable_progress_bars

from evidence.scoring_study.measure import FISHERS, OTHERS, BuildStudy
from evidence.scoring_study.rows import append_rows, read_rows
from graceful_forgetting.worlds import WORLDS

OUTPUT = Path(__file__).parents[1] / "archives" / "scoring" / "study.jsonl"
# The rate at which plain fine-tuning is best on the world's validation split.
RATES = {
    "shortcut": 6e-4,
    "override": 4e-3,
    "arithmetic": 1e-3,
    "capacity": 1e-3,
    "harmless": 3e-4,
    "entangled": 4e-3,
}
RECIPE: dict[str, Any] = {
    "max_steps": 150,
    "per_device_train_batch_size": 32,
    "lr_scheduler_type": "linear",
    "weight_decay": 0.0,
    "gradient_checkpointing": False,
    "logging_steps": 150,
    "save_strategy": "no",
    "report_to": "none",
    "elicitation_batch_size": 128,
    "elicitation_max_new_tokens": 4,
    "posterior_batch_size": 256,
    "confidence_batch_size": 128,
}


def measure(
    world: str,
    build: int,
    fishers: dict[int, list[str]],
    output: Path,
    recipe: dict[str, Any],
    *,
    line_search: bool = True,
) -> None:
    """Append what the file does not have yet: by seed the confidences with `fishers[seed]`, and all other scores."""
    known = read_rows(output) if output.is_file() else []
    done = {
        (row.seed, row.setting.fisher or row.setting.scorer)
        for row in known
        if (row.world, row.build) == (world, build)
    }
    missing = {
        seed: (
            [name for name in names if (seed, name) not in done],
            [name for name in OTHERS if (seed, name) not in done],
        )
        for seed, names in fishers.items()
    }
    with TemporaryDirectory() as work:
        study: BuildStudy | None = None
        for seed, (names, scorers) in missing.items():
            if not names and not scorers:
                continue
            start = time.perf_counter()
            study = study or BuildStudy(world, build, recipe, Path(work), line_search=line_search)
            append_rows(output, study.rows(seed, names, scorers))
            print(f"{world}, build {build}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--worlds", nargs="+", choices=sorted(WORLDS), default=list(WORLDS))
    parser.add_argument("--builds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seeds", type=int, default=10, help="reference runs on build 0")
    parser.add_argument("--other_seeds", type=int, default=3, help="reference runs on every other build")
    parser.add_argument("--exact", type=int, default=3, help="of them, how many with estimator 'exact'")
    arguments = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for build in arguments.builds:
        for world in arguments.worlds:
            seeds = range(arguments.seeds if build == 0 else arguments.other_seeds)
            recipe = RECIPE | {"learning_rate": RATES[world]}
            # What is slow is measured on one build alone.
            exact = arguments.exact if build == 0 else 0
            fishers = {seed: [name for name in FISHERS if name != "exact" or seed < exact] for seed in seeds}
            measure(world, build, fishers, arguments.output, recipe, line_search=build == 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
