"""Which threshold chooses the same samples at every learning rate? Scores of the worlds at five rates, and two rules.

    python -m evidence.threshold_study [--output FILE] [--worlds shortcut ...]

For each world and build it makes the reference run of the defaults (a tenth of the updates) at each rate and scores the
mixed pool by interference. One JSON line a world, build and rate; those that are in the file are skipped. Nothing is
unlearned. `python -m evidence.make_tables` makes the table `thresholds` of it.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars

from evidence.scoring_study.measure import BuildStudy
from evidence.scoring_study.run import RECIPE
from evidence.tables.rates import scientific
from evidence.tables.table import code, table
from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.confidence.losses import MOST_LEARNING_ROWS, learning_loss
from graceful_forgetting.config import ConfidenceConfig, changed
from graceful_forgetting.config.lwf import DEFAULT_REFERENCE_SHARE
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.posterior.reference import reference_args, stopping_after, train_reference
from graceful_forgetting.results.text import fixed, share
from graceful_forgetting.runs.training import arm_args
from graceful_forgetting.training.preparation import SCORE_COLUMN

OUTPUT = Path(__file__).parent / "archives" / "threshold" / "scores.jsonl"
# From one at which a reference run hardly moves to one above that at which plain fine-tuning is best.
RATES: dict[str, tuple[float, ...]] = {
    "shortcut": (3e-5, 3e-4, 6e-4, 1.2e-3, 2.4e-3),
    "override": (1e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "arithmetic": (5e-5, 5e-4, 1e-3, 2e-3, 4e-3),
    "capacity": (5e-5, 5e-4, 1e-3, 2e-3, 4e-3),
    "entangled": (1e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "harmless": (1e-5, 1e-4, 3e-4, 6e-4, 1.2e-3),
}
# Builds that are measured of every world but `capacity`, of which it is the first.
BUILDS = (0, 1)
# Samples of the pool, drawn at random.
SAMPLES = 1200
# Nats per token: the flat threshold, and the one at which learning has removed all of its own loss.
FLAT, RELATIVE = 0.2, 0.3


@dataclass(frozen=True)
class PoolScores:
    """The pool of a world after a reference run.

    Attributes:
        learned: share of the learning task's loss that the reference run has removed.
        kinds: a letter a sample, as in the scoring study: c conflicting, h helpful, n neutral.
        scores: what the reference run has done to the loss of each sample, nats per token.
    """

    world: str
    build: int
    rate: float
    learned: float
    kinds: str
    scores: list[float]


def measure(world: str, build: int, known: set[float]) -> Iterator[PoolScores]:
    """One build of a world at the rates that are not known yet."""
    rates = [rate for rate in RATES[world] if rate not in known]
    if not rates:
        return
    with TemporaryDirectory() as work:
        study = BuildStudy(world, build, RECIPE | {"learning_rate": rates[0]}, Path(work), line_search=False)
        drawn = np.sort(np.random.default_rng(0).permutation(len(study.kinds))[:SAMPLES]).tolist()
        knowledge, learning = study.knowledge.select(drawn), study.inputs.learning_rows
        config = ConfidenceConfig(scorer="interference", batch_size=study.batch_size)
        base = _whole_loss(study.model, learning, study.batch_size)
        for rate in rates:
            args = reference_args(changed(arm_args(study.lwf, Path(work), 0), learning_rate=rate), work)
            callbacks = stopping_after(DEFAULT_REFERENCE_SHARE)
            trainer, _ = train_reference(
                study.base_model(), args, learning, study.inputs.tokenizer, callbacks=callbacks
            )
            mean = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
            posterior = LearningPosterior(mean, {}, {"model": study.fingerprint})
            scored = score_confidence(study.model, knowledge, posterior, config)
            learned = 1 - _whole_loss(trainer.model, learning, study.batch_size) / base
            scores = [round(score, 4) for score in scored.with_format(None)[SCORE_COLUMN]]
            yield PoolScores(
                world, build, rate, round(learned, 4), "".join(study.kinds[index] for index in drawn), scores
            )


def _whole_loss(model: Any, learning: Dataset, batch_size: int) -> float:
    """Of all learning rows, where a run reads some hundreds."""
    starts = range(0, len(learning), MOST_LEARNING_ROWS)
    parts = [learning.select(range(start, min(start + MOST_LEARNING_ROWS, len(learning)))) for start in starts]
    return sum(len(part) * learning_loss(model, part, batch_size) for part in parts) / len(learning)


def read(path: Path = OUTPUT) -> list[PoolScores]:
    """What the study has measured."""
    return [PoolScores(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def thresholds() -> str:
    """Share chosen, precision and recall of both rules, in each world at each rate, means over builds."""
    rows: dict[tuple[str, float], list[PoolScores]] = {}
    for pool in read():
        rows.setdefault((pool.world, pool.rate), []).append(pool)
    columns: dict[str, Callable[[tuple[str, float]], str]] = {
        "world": lambda row: code(row[0]),
        "learning rate": lambda row: scientific(row[1]),
        "learned": lambda row: share(fmean(pool.learned for pool in rows[row])),
        "flat: chosen, precision, recall": lambda row: _judged(rows[row], lambda _: FLAT),
        "relative: chosen, precision, recall": lambda row: _judged(
            rows[row], lambda pool: RELATIVE * min(1.0, max(0.05, pool.learned))
        ),
    }
    return table(rows, columns)


def _judged(pools: list[PoolScores], threshold: Callable[[PoolScores], float]) -> str:
    chosen = [[score >= threshold(pool) for score in pool.scores] for pool in pools]
    found: list[list[Any]] = [[fmean(flags) for flags in chosen], [], []]
    for pool, flags in zip(pools, chosen, strict=True):
        hits = sum(flag and kind == "c" for flag, kind in zip(flags, pool.kinds, strict=True))
        if any(flags) and "c" in pool.kinds:
            found[1].append(hits / sum(flags))
        if "c" in pool.kinds:
            found[2].append(hits / pool.kinds.count("c"))
    return ", ".join(fixed(fmean(values) if values else None, 2) for values in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--worlds", nargs="+", choices=sorted(RATES), default=list(RATES))
    arguments = parser.parse_args()
    disable_progress_bars()
    torch.set_num_threads(1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    done = read(arguments.output) if arguments.output.is_file() else []
    for world in arguments.worlds:
        for build in BUILDS[:1] if world == "capacity" else BUILDS:
            known = {pool.rate for pool in done if (pool.world, pool.build) == (world, build)}
            for pool in measure(world, build, known):
                with arguments.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(pool), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
