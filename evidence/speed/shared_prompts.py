"""Multiple choice on a real model: likelihoods with each prompt read once, against once an option.

    make real-model && python -m evidence.speed.shared_prompts

CPU seconds of both in turn, over the sample rows of each task, their ratio, and the largest difference between the
log-likelihoods of an option.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from graceful_forgetting.evaluation.evaluate import EvaluationRows, evaluate_items
from graceful_forgetting.gradients import shared_prompts
from graceful_forgetting.tasks import load_task


def measured(model: Any, test: EvaluationRows, once: bool) -> tuple[float, Sequence[Sequence[float]]]:
    """CPU seconds of all options' likelihoods, and what they are."""
    with patch.object(shared_prompts, "reads_prompts_once", lambda _: once):
        start = time.process_time()
        _, items = evaluate_items(
            model, test, "learning", None, batch_size=32, max_new_tokens=1, description="options", generate=False
        )
    assert items.choice_log_likelihoods is not None
    return time.process_time() - start, items.choice_log_likelihoods


def compared(model: Any, test: EvaluationRows, repetitions: int) -> Mapping[str, Any]:
    """Of one task; the first pair warms up and does not count."""
    pairs = [(measured(model, test, once=True), measured(model, test, once=False)) for _ in range(1 + repetitions)]
    once, each = pairs[0][0][1], pairs[0][1][1]
    return {
        "options": len(once[0]),
        "ratio": median(separate[0] / shared[0] for shared, separate in pairs[1:]),
        "difference": max(
            abs(a - b) for own, other in zip(once, each, strict=True) for a, b in zip(own, other, strict=True)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--tasks", nargs="+", default=["qasc", "dental", "openbookqa"])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    for name in options.tasks:
        test = EvaluationRows(load_task(name, "test", source="sample", limit=options.rows), tokenizer)
        found = compared(model, test, options.repetitions)
        print(
            f"{name}: {found['options']} options, {found['ratio']:.2f} x as fast, "
            f"log-likelihoods differ by {found['difference']:.0e} nats at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
