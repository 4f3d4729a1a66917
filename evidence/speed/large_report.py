"""A report of many scored samples: seconds, size, and how many rows its table has.

    python -m evidence.speed.large_report [--samples 100000] [--output report.html]

The result is that of the demo in the archives; the samples are made up.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import Dataset

from graceful_forgetting.report import render_report
from graceful_forgetting.results.result import RunResult

DEMO = Path(__file__).parents[1] / "archives" / "demo.json"


def samples(number: int) -> Dataset:
    """Scored self-knowledge of three tasks, with texts of the length of short answers."""
    draw = np.random.default_rng(0)
    scores = draw.normal(size=number) + draw.integers(0, 3, size=number)
    return Dataset.from_dict(
        {
            "prompt": [
                f"Question {index}: what is the colour of thing {index % 977} in place {index % 89}?"
                for index in range(number)
            ],
            "completion": [f" It is colour {index % 31}." for index in range(number)],
            "forgetting_task": [f"task-{index % 3}" for index in range(number)],
            "forgetting_confidence": scores,
            "confidence_linear": scores * 0.7,
            "confidence_quadratic": scores * 0.3,
            "loss": np.abs(scores),
            "chosen": scores > 3,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = samples(arguments.samples)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.output or Path(folder) / "report.html"
        start = time.perf_counter()
        render_report(RunResult.load(DEMO), rows, path)
        seconds, size = time.perf_counter() - start, path.stat().st_size
    print(f"{arguments.samples} samples: {seconds:.1f} s, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
