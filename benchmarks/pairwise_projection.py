"""What random projection does to the score by single learning examples: AUROC of conflicting samples in the world
`shortcut`, build 0, by the numbers that are kept of each gradient.

    python benchmarks/pairwise_projection.py [--output pairwise-projection.json]

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

from graceful_forgetting.artifacts import write_json
from graceful_forgetting.confidence.engine import PerSampleEngine
from graceful_forgetting.confidence.pairwise import directions, parameters_before_output
from graceful_forgetting.confidence.projection import ProjectedGradients
from graceful_forgetting.confidence.rows import batches, load_batch, tokenised_rows, usable_rows
from graceful_forgetting.experiment.provenance import package_versions
from graceful_forgetting.experiment.scoring_study.measure import BuildStudy
from graceful_forgetting.experiment.scoring_study.rows import detection

WIDTHS = (2**12, 2**14, 2**16, 2**18, 2**20)
RECIPE = {"elicitation_batch_size": 128, "elicitation_max_new_tokens": 4, "gradient_checkpointing": False}


def features(study: BuildStudy, rows: Dataset, projection: ProjectedGradients) -> Tensor:
    """Directions of the rows' gradients, (rows, width)."""
    rows = tokenised_rows(rows, study.inputs.tokenizer, argument="rows")
    found = torch.zeros(len(rows), projection.width)
    with PerSampleEngine(study.model, parameters_before_output(study.model)) as engine:
        for indices in batches(usable_rows(rows, study.model, argument="rows"), 64):
            engine.run(load_batch(rows, indices, study.model.device), projection)
            found[indices] = directions(projection.features)
    return found


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
            projection = ProjectedGradients(parameters_before_output(study.model), width)
            own = features(study, samples, projection)
            score = -(own @ features(study, study.inputs.learning_rows, projection).mT).amin(dim=1)
            conflicting = torch.tensor([kind == "c" for kind in kinds])
            rows.append(
                {
                    "width": projection.width,
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
