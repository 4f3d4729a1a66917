"""Forgetting and retaining of a finished run as TOFU measures them: a sanity check beside accuracy.

    python -m evidence.tofu runs/demo

After Maini et al., *TOFU: A Task of Fictitious Unlearning for LLMs* (arXiv 2401.06121), section 2.2. What TOFU has as
forget and retain set is here the self-knowledge that was chosen for unlearning and the rest of it. TOFU's perturbed
answers, written by a model, are here other samples' answers of the same forgetting task, and the reference that never
saw the forget set is the never-knew model, where the run has one.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any

from datasets import Dataset, disable_progress_bars, load_from_disk
from scipy import stats
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.evaluation.likelihood import completion_likelihoods
from graceful_forgetting.results.text import fixed, number
from graceful_forgetting.results.text_tables import aligned
from graceful_forgetting.runtime.artifacts import read_json, write_json
from graceful_forgetting.training.preparation import TASK_COLUMN

FILE = "tofu.json"
PERTURBED = 5


@dataclass(frozen=True)
class PartMeasures:
    """One model on forgotten or on retained self-knowledge.

    Attributes:
        samples: how many were measured.
        probability: mean of P(answer | prompt)^(1/tokens), EOS included.
        truth_ratios: by sample, mean over perturbed answers of their P^(1/tokens), over that of the answer: below 1
            where the model prefers the answer.
        truth_score: mean of max(0, 1 − truth ratio), which is 1 where nothing but the answer is likely.
    """

    samples: int
    probability: float
    truth_ratios: list[float]
    truth_score: float


def perturbed_answers(completions: Sequence[Any], tasks: Sequence[str], count: int, seed: int = 0) -> list[list[Any]]:
    """For every sample up to `count` other answers of its task, all different, drawn by `seed`.

    Raises:
        ValueError: a task whose answers are all the same, so that there is nothing to compare with.
    """
    by_task: dict[str, list[Any]] = {}
    for completion, task in zip(completions, tasks, strict=True):
        known = by_task.setdefault(task, [])
        if completion not in known:
            known.append(completion)
    draw = random.Random(seed)
    drawn = []
    for completion, task in zip(completions, tasks, strict=True):
        others = [other for other in by_task[task] if other != completion]
        if not others:
            raise ValueError(f"all answers of forgetting task {task!r} are the same: a truth ratio needs another one")
        drawn.append(draw.sample(others, min(count, len(others))))
    return drawn


def part_measures(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    rows: Dataset,
    perturbed: Sequence[Sequence[Any]],
    batch_size: int,
) -> PartMeasures:
    """Probability and truth ratio of `rows` (`prompt`, `completion`), with their `perturbed` answers in order."""
    pairs = [
        {"prompt": row["prompt"], "completion": completion}
        for row, others in zip(rows, perturbed, strict=True)
        for completion in (row["completion"], *others)
    ]
    found = completion_likelihoods(model, processing_class, Dataset.from_list(pairs), batch_size, "TOFU")
    probabilities = iter([exp(-likelihood.nats / likelihood.tokens) for likelihood in found])
    own, ratios = [], []
    for others in perturbed:
        own.append(next(probabilities))
        ratios.append(fmean(next(probabilities) for _ in others) / own[-1])
    return PartMeasures(len(own), fmean(own), ratios, fmean(max(0.0, 1 - ratio) for ratio in ratios))


def model_utility(retained: PartMeasures, learned: Sequence[float]) -> float:
    """Harmonic mean of what should stay: both measures of retained self-knowledge, and of the learning task
    `learned`, numbers from 0 to 1. One that is 0 makes it 0.
    """
    return harmonic_mean([retained.probability, retained.truth_score, *learned])


def tofu_measures(
    run_directory: str | Path, limit: int = 200, batch_size: int = 64, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Measure every trained model of a finished run and write `tofu.json` into its folder.

    Args:
        run_directory: `output_dir` of `graceful run`.
        limit: at most so many samples of each part, drawn by `seed`.
        batch_size: answers a forward pass.
        seed: of both draws.

    Returns:
        by model ("lwf/seed-0"): `forgotten` and `retained` (fields of `PartMeasures`), `model_utility`, and
        `forget_quality`, the p-value of TOFU's Kolmogorov–Smirnov test between the truth ratios of forgotten samples of
        this model and of never-knew with the same seed; null without one.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        ValueError: see `perturbed_answers`; or nothing is retained, or nothing forgotten.
    """
    folder = Path(run_directory)
    if not (folder / "result.json").is_file():
        raise FileNotFoundError(f"run_directory={str(folder)!r} has no result.json: name the output_dir of a run")
    parts = _parts(folder, limit, seed)
    models: dict[str, dict[str, Any]] = {}
    for arm in ("plain", "lwf", "never_knew"):
        for path in sorted((folder / arm).glob("seed-*")):
            model = AutoModelForCausalLM.from_pretrained(path).eval()
            tokenizer = AutoTokenizer.from_pretrained(path)
            measured = {
                name: part_measures(model, tokenizer, rows, others, batch_size)
                for name, (rows, others) in parts.items()
            }
            utility = model_utility(measured["retained"], _learned(folder, f"{arm}-{path.name}"))
            models[f"{arm}/{path.name}"] = {
                **{name: asdict(part) for name, part in measured.items()},
                "model_utility": utility,
                "forget_quality": None,
            }
    for name, values in models.items():
        reference = models.get(f"never_knew/{name.split('/')[1]}")
        if reference is not None:
            ratios = (found["forgotten"]["truth_ratios"] for found in (values, reference))
            values["forget_quality"] = float(stats.ks_2samp(*ratios).pvalue)
    write_json(folder / FILE, models)
    return models


def _parts(folder: Path, limit: int, seed: int) -> dict[str, tuple[Dataset, list[list[Any]]]]:
    """Rows of each part, and their perturbed answers."""
    scored = load_from_disk(str(folder / "scores" / "rows"))
    chosen = set(load_from_disk(str(folder / "selection" / "rows"))["source_index"])
    others = perturbed_answers(list(scored["completion"]), list(scored[TASK_COLUMN]), PERTURBED, seed)
    members = {
        "forgotten": [index for index in range(len(scored)) if index in chosen],
        "retained": [index for index in range(len(scored)) if index not in chosen],
    }
    parts = {}
    for name, indices in members.items():
        if not indices:
            raise ValueError(f"no self-knowledge is {name}: choose forget_fraction between 0 and 1")
        drawn = sorted(random.Random(seed).sample(indices, min(limit, len(indices))))
        parts[name] = (scored.select(drawn), [others[index] for index in drawn])
    return parts


def _learned(folder: Path, name: str) -> list[float]:
    """Probability of the learning task's given answers, and accuracy where it was measured."""
    evaluation = folder / "evaluation" / name
    metrics, items = read_json(evaluation / "metrics.json"), read_json(evaluation / "items.json")
    found = []
    for task, values in metrics.items():
        if values["role"] == "learning":
            pairs = zip(items[task]["nats"], items[task]["tokens"], strict=True)
            found.append(fmean(exp(-nats / tokens) for nats, tokens in pairs))
            if values["accuracy"] is not None:
                found.append(values["accuracy"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Forget and retain measures of a finished run, as in TOFU.")
    parser.add_argument("run_directory")
    parser.add_argument("--limit", type=int, default=200, help="samples of each part")
    options = parser.parse_args()
    disable_progress_bars()
    heads = ("model", "P forgotten", "P retained", "truth forgotten", "truth retained", "utility", "forget quality")
    rows: list[tuple[str, ...]] = [heads]
    for name, found in tofu_measures(options.run_directory, options.limit).items():
        parts = [found[part][key] for key in ("probability", "truth_score") for part in ("forgotten", "retained")]
        rows.append((name, *map(fixed, (*parts, found["model_utility"])), number(found["forget_quality"], 2)))
    print(aligned(rows, ruled=True))


if __name__ == "__main__":
    main()
