"""What random projection does to the score by single learning examples: AUROC of conflicting samples in the world
`shortcut`, build 0, by the numbers that are kept of each gradient.

    python -m evidence.speed.pairwise_projection [--output pairwise-projection.json]

The score takes as many numbers as fit (`confidence/pairwise.py`); this is what fewer cost. Each row is one draw of the
projection. About two minutes on one core, less where the world's model is built already.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor

from evidence.scoring_study.measure import BuildStudy
from evidence.scoring_study.rows import detection
from graceful_forgetting.confidence.pairwise import LeastCosines
from graceful_forgetting.confidence.scorer import Inputs
from graceful_forgetting.config import ConfidenceConfig
from graceful_forgetting.gradients.rows import tokenised_rows
from graceful_forgetting.results.provenance import package_versions
from graceful_forgetting.runtime.artifacts import write_json

BATCH = 64
WIDTHS = (2**12, 2**14, 2**16, 2**18, 2**20)
RECIPE = {"elicitation_batch_size": 128, "elicitation_max_new_tokens": 4, "gradient_checkpointing": False}


def scores(study: BuildStudy, samples: Dataset, width: int) -> tuple[Tensor, int]:
    """The score of every sample, and the numbers that are kept of a gradient."""
    rows = tokenised_rows(samples, study.inputs.tokenizer, argument="samples")
    config = ConfidenceConfig(scorer="pairwise_conflict", batch_size=BATCH)
    inputs = Inputs(study.model, rows, config, None, study.inputs.learning_rows, print)
    measurement = LeastCosines(inputs, width)
    with measurement.prepared():
        parts = [measurement.measure(part.tolist()) for part in torch.arange(len(rows)).split(BATCH)]
    return -torch.cat([part["least_cosine"] for part in parts]), measurement.kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=800, help="drawn from the pool at random")
    parser.add_argument("--output", default="pairwise-projection.json")
    options = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(1)
    with TemporaryDirectory() as work:
        study = BuildStudy("shortcut", 0, RECIPE, Path(work), line_search=False)
        chosen = torch.randperm(len(study.kinds), generator=torch.Generator().manual_seed(0))[: options.samples]
        samples = study.knowledge.select(chosen.tolist())
        kinds = [study.kinds[index] for index in chosen]
        rows = []
        for width in WIDTHS:
            start = time.process_time()
            score, kept = scores(study, samples, width)
            conflicting = torch.tensor([kind == "c" for kind in kinds])
            rows.append(
                {
                    "width": kept,
                    "auroc": detection(score.tolist(), kinds).auroc,
                    "median_conflicting": float(score[conflicting].median()),
                    "median_other": float(score[~conflicting].median()),
                    "seconds": time.process_time() - start,
                }
            )
            print(rows[-1], flush=True)
    write_json(
        options.output, {"packages": package_versions(), "learning_rows": len(study.inputs.learning_rows), "rows": rows}
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
