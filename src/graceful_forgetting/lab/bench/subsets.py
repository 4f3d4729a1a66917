"""How well a score over some of the parameters ranks samples like the score over all, on the embedded world."""

import tempfile
import time
from collections.abc import Mapping
from typing import Any

from datasets import concatenate_datasets
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer

from graceful_forgetting.confidence import score_confidence
from graceful_forgetting.config import ConfidenceConfig, LWFConfig, PosteriorConfig
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.posterior import estimate_posterior
from graceful_forgetting.posterior.reference import train_reference
from graceful_forgetting.results.text import fixed
from graceful_forgetting.results.text_tables import aligned
from graceful_forgetting.worlds import load_world, world_checkpoint

WORLD = "shortcut"
# Arguments of `LearningPosterior.subset`, the same as fields of `PosteriorConfig`.
SUBSETS: Mapping[str, Mapping[str, Any]] = {
    "last 1 of 4 blocks": {"last_blocks": 1},
    "last 2 of 4 blocks": {"last_blocks": 2},
    "last 3 of 4 blocks": {"last_blocks": 3},
    "attention": {"pattern": r"self_attn"},
    "MLP": {"pattern": r"\.mlp\."},
    "down projections": {"pattern": r"down_proj"},
    "output layer": {"pattern": r"lm_head"},
}
_SAMPLES = 800
_STEPS = 150


def subset_correlations() -> list[dict[str, Any]]:
    """Score real self-knowledge of a small pre-trained model with all parameters and with each subset.

    The posterior is that of the world's learning task after `_STEPS` updates of plain fine-tuning.

    Returns:
        a row a subset: `subset`, `parameters` (share of all), `rank_correlation` (Spearman's, over the samples) and
        `seconds_ratio` (time of scoring over that of the full score).
    """
    world, path = load_world(WORLD), str(world_checkpoint(WORLD, "base"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    learning = tokenize_dataset(world.learning_train, tokenizer, argument="learning")
    knowledge = concatenate_datasets(
        [rows.select_columns(["prompt", "completion"]) for rows in world.forgetting.values()]
    )
    knowledge = tokenize_dataset(knowledge.shuffle(seed=0).select(range(_SAMPLES)), tokenizer, argument="knowledge")
    with tempfile.TemporaryDirectory() as folder:
        args = LWFConfig(
            output_dir=folder,
            max_steps=_STEPS,
            per_device_train_batch_size=32,
            learning_rate=6e-4,
            weight_decay=0.0,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=_STEPS,
            seed=0,
            use_cpu=True,
        )
        trainer, _ = train_reference(AutoModelForCausalLM.from_pretrained(path), args, learning, tokenizer)
    base, reference = (AutoModelForCausalLM.from_pretrained(path) for _ in range(2))
    # A trainer leaves its own forward on the model that it has trained.
    reference.load_state_dict(trainer.model.state_dict())
    posterior = estimate_posterior(base, reference, learning, PosteriorConfig(batch_size=64, seed=0), tokenizer)
    config = ConfidenceConfig(scorer="lwf", batch_size=64)

    def scored(part: Any) -> tuple[list[float], float]:
        start = time.perf_counter()
        rows = score_confidence(base, knowledge, part, config)
        return list(rows["forgetting_confidence"]), time.perf_counter() - start

    scored(posterior)
    every, seconds = scored(posterior)
    total = sum(value.numel() for value in posterior.mean.values())
    rows = []
    for name, chosen in SUBSETS.items():
        part = posterior.subset(**chosen)
        scores, own = scored(part)
        rows.append(
            {
                "subset": name,
                "parameters": sum(value.numel() for value in part.mean.values()) / total,
                "rank_correlation": float(spearmanr(scores, every).statistic),
                "seconds_ratio": own / seconds,
            }
        )
    return rows


def subset_table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    heads = ("scored parameters", "share", "rank correlation", "time")
    lines = [
        (row["subset"], f"{row['parameters']:.0%}", fixed(row["rank_correlation"]), fixed(row["seconds_ratio"], 2))
        for row in rows
    ]
    return aligned([heads, *lines], ruled=True)
