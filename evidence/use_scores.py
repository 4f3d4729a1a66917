"""Do the scores of losses find what conflicts in the pools of the uses? Recipes of a real model, up to the selection.

    make real-model && python -m evidence.use_scores [--output FILE] [--uses facts identity labels] [--seeds 10]

Everything is as the recipe of the use says, but the scorer: `interference`, and the same token by token. A use with
` sampled` behind its name has answers drawn at temperature 1 in place of the likeliest ones. One JSON line a use, seed
and scorer; those that are in the file are skipped. Nothing is unlearned. `python -m evidence.make_tables`
makes the table `uses_scores` of it.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset

from evidence.tables.uses import PoolRanking
from graceful_forgetting.confidence.losses import shift_by_answer
from graceful_forgetting.config.confidence import OF_LOSSES
from graceful_forgetting.config.selection import DEFAULT_THRESHOLDS
from graceful_forgetting.results.measures import by_falling_score, run_lengths
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.recipe import parse_recipe
from graceful_forgetting.runtime.store import read_rows
from graceful_forgetting.selection import SOURCE_INDEX, select_for_unlearning
from graceful_forgetting.sweeps.scores import LETTERS, kinds_of
from graceful_forgetting.training.preparation import ROWS_FOLDER, SCORE_COLUMN

RECIPES = Path(__file__).parents[1] / "recipes" / "uses"
OUTPUT = Path(__file__).parent / "archives" / "uses" / "scores.jsonl"
SAMPLED = "sampled"
# What tells whether an own label conflicts: it is the one that the review had under the old convention.
LABELS = RECIPES / "labels" / "pool" / "train.jsonl"


def measure(use: str, seed: int, folder: str) -> Iterator[PoolRanking]:
    """The pool of one use in the order of each score, after the reference run with this seed.

    `folder`: of the run; where the own answers do not depend on the seed, the next one finds them there.
    """
    recipe, _, answers = use.partition(" ")
    fields = ["--output_dir", folder, "--seed", str(seed), "--confidence_scorer", "token_interference"]
    if answers == SAMPLED:
        fields += ["--elicitation_temperature", "1.0"]
    pipeline = Pipeline(*parse_recipe(str(RECIPES / f"{recipe}.yaml"), fields), announce=print)
    with closing(pipeline.directory):
        by_token = read_rows(pipeline.method.scores().path / ROWS_FOLDER)
        learned = pipeline.method.learned()
    assert learned is not None
    kinds = _kinds_of_labels(by_token) if recipe == "labels" else kinds_of(by_token, pipeline.inputs.sources.forgetting)
    letters = [LETTERS[kind or ""] for kind in kinds]
    for scorer in OF_LOSSES:
        scored = by_token if scorer == "token_interference" else _by_mean_loss(by_token)
        threshold = DEFAULT_THRESHOLDS[scorer]["relative"]
        chosen = select_for_unlearning(scored, strategy="relative", threshold=threshold, learned=learned)
        yield PoolRanking(
            use=use,
            seed=seed,
            scorer=scorer,
            learned=round(learned, 4),
            ranking=run_lengths(by_falling_score(list(scored[SCORE_COLUMN]), letters)),
            chosen=run_lengths("".join(sorted(letters[index] for index in chosen[SOURCE_INDEX]))),
        )


def _by_mean_loss(scored: Dataset) -> Dataset:
    """The same rows with `interference` as their score, which reads the same losses."""
    rise = torch.tensor(scored["reference_loss"][:]) - torch.tensor(scored["loss"][:])
    score = (rise - shift_by_answer(rise, scored)).tolist()
    return scored.remove_columns(SCORE_COLUMN).add_column(SCORE_COLUMN, score)


def _kinds_of_labels(scored: Any) -> list[str]:
    old = {row["review"]: row["old"] for row in map(json.loads, LABELS.read_text(encoding="utf-8").splitlines())}

    def kind(row: Mapping[str, Any]) -> str:
        (review,) = (review for review in old if review in _text(row["prompt"]))
        return "conflicting" if _text(row["completion"]).strip() == old[review] else "helpful"

    return [kind(row) for row in scored]


def _text(turns: str | Sequence[Mapping[str, str]]) -> str:
    return turns if isinstance(turns, str) else turns[-1]["content"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--uses", nargs="+", default=["facts", "identity", "labels"])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    lines = options.output.read_text(encoding="utf-8").splitlines() if options.output.exists() else []
    known = {(row["use"], row["seed"]) for row in map(json.loads, lines)}
    for use in options.uses:
        with TemporaryDirectory() as folder:
            for seed in range(options.seeds):
                if (use, seed) not in known:
                    found = "".join(json.dumps(vars(ranking)) + "\n" for ranking in measure(use, seed, folder))
                    with options.output.open("a", encoding="utf-8") as file:
                        file.write(found)


if __name__ == "__main__":
    main()
