"""The memory that is announced before scoring and the Fisher information, against what they take.

    python evidence/speed/memory_estimates.py [--output evidence/speed/memory-estimates.json]

Llamas at random weights, of five shapes up to that of SmolLM2-135M. Each row of the table is a process of its own: a
tiny model is scored first, so that what is loaded on first use is there, the freed memory is returned, and then two
batches are worked on, the check of the rules included. Measured is the growth of resident memory to its peak.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
from datasets import Dataset, disable_progress_bars
from transformers import LlamaConfig, LlamaForCausalLM

from graceful_forgetting import ConfidenceConfig, LearningPosterior, PosteriorConfig, score_confidence
from graceful_forgetting.gradients.memory import MemoryEstimate
from graceful_forgetting.lab.bench.confidence import _return_freed_memory
from graceful_forgetting.posterior.fisher import fisher_estimate
from graceful_forgetting.results.provenance import peak_memory, reset_peak_memory
from graceful_forgetting.results.text_tables import aligned
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.fingerprint import fingerprint_model

# Layers, width, inner width, heads, heads of keys and values, vocabulary, embeddings tied.
SHAPES = {
    "tiny": (2, 32, 88, 4, 4, 512, False),
    "7M": (6, 256, 704, 4, 4, 4096, False),
    "7M, tied": (6, 256, 704, 4, 4, 4096, True),
    "32M, large vocabulary": (8, 320, 864, 5, 5, 49152, False),
    "SmolLM2-135M": (30, 576, 1536, 9, 3, 49152, True),
}
# Tokens of a row, those of its prompt, rows in a batch.
BATCHES = [(64, 0, 16), (256, 128, 16), (256, 0, 4)]
LARGE_BATCHES = [(64, 0, 4), (128, 64, 8), (256, 128, 2)]
STAGES = ("loss", "interference", "lwf", "lwf, bfloat16", "lwf, streamed", "fisher")


def build(shape: str) -> LlamaForCausalLM:
    layers, width, inner, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config)


def rows(vocabulary: int, tokens: int, prompt: int, count: int) -> Dataset:
    ids = torch.randint(vocabulary, (count, tokens), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :prompt] = -100
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def work(stage: str, model: LlamaForCausalLM, posterior: LearningPosterior, data: Dataset, batch_size: int) -> None:
    if stage == "fisher":
        fisher_estimate(model, data, PosteriorConfig(batch_size=batch_size))
        return
    scorer, _, weights = stage.partition(", ")
    config = ConfidenceConfig(scorer=scorer, batch_size=batch_size, weights=weights or "float32")  # type: ignore[arg-type]
    score_confidence(model, data, posterior, config)


def posterior_of(model: LlamaForCausalLM) -> LearningPosterior:
    mean = {name: p.detach() + 0.01 for name, p in model.named_parameters()}
    precision = {name: torch.rand_like(p) for name, p in mean.items()}
    return LearningPosterior(mean, precision, {"model": fingerprint_model(model)})


def measure(shape: str, stage: str, tokens: int, prompt: int, batch_size: int) -> dict[str, Any]:
    """One row of the table, in this process."""
    disable_progress_bars()
    torch.set_num_threads(1)
    small = build("tiny")
    work(stage, small, posterior_of(small), rows(512, 16, 0, 4), 2)
    model = build(shape)
    posterior, data = posterior_of(model), rows(model.config.vocab_size, tokens, prompt, 2 * batch_size)
    estimates: list[MemoryEstimate] = []
    _return_freed_memory()
    before = psutil.Process().memory_info().rss
    reset_peak_memory()
    with patch.object(MemoryEstimate, "require_fit", lambda self, *_: estimates.append(self)):
        work(stage, model, posterior, data, batch_size)
    taken = peak_memory().process_bytes - before
    (estimate,) = estimates
    parts = {name: getattr(estimate, name) for name in ("activations", "weights", "copies")}
    return {
        "shape": shape,
        "parameters": sum(p.numel() for p in model.parameters()),
        "stage": stage,
        "tokens": tokens,
        "prompt_tokens": prompt,
        "batch_size": batch_size,
        **parts,
        "estimate_bytes": estimate.total,
        "measured_bytes": taken,
        "ratio": estimate.total / taken,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES)[1:], choices=list(SHAPES))
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        shape, stage, *numbers = arguments.one
        print(json.dumps(measure(shape, stage, *map(int, numbers))))
        return
    results: list[dict[str, Any]] = []
    for shape in arguments.shapes:
        for stage in arguments.stages:
            for numbers in LARGE_BATCHES if SHAPES[shape][5] > 10_000 else BATCHES:
                command = [sys.executable, __file__, "--one", shape, stage, *map(str, numbers)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                results.append(json.loads(output.splitlines()[-1]))
                if arguments.output is not None:
                    write_json(arguments.output, {"torch": torch.__version__, "threads": 1, "results": results})
    lines = [("shape", "stage", "tokens", "prompt", "batch", "estimate MiB", "measured MiB", "ratio")]
    for row in results:
        sizes = [f"{row[name] / 2**20:.0f}" for name in ("estimate_bytes", "measured_bytes")]
        numbers = [str(row[name]) for name in ("tokens", "prompt_tokens", "batch_size")]
        lines.append((row["shape"], row["stage"], *numbers, *sizes, f"{row['ratio']:.2f}"))
    print(aligned(lines))


if __name__ == "__main__":
    main()
