"""Likelihoods and answers of a real model: what prompts have in common read once, against once a row.

    make real-model && python -m evidence.speed.shared_prompts

Multiple choice, where each prompt is read once for all its options; and questions of the use `identity`, behind the
model's own system prompt and behind a longer one, with the likelihood of a given answer and answers that are generated.
CPU seconds of both in turn, their ratio, and the largest difference of log-likelihoods, or the answers that differ.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.evaluation.evaluate import EvaluationRows, evaluate_items
from graceful_forgetting.evaluation.likelihood import tokenised_completions, tokenised_likelihoods
from graceful_forgetting.generation import generate_completions
from graceful_forgetting.generation.beginning import Beginning
from graceful_forgetting.gradients import shared_prompts
from graceful_forgetting.tasks import load_task

POOL = Path(__file__).parents[2] / "recipes" / "uses" / "identity" / "pool" / "train.jsonl"
RULE = "Answer in one sentence, in plain words, and say so where you are not sure of an answer."
ANSWER = "That is something I can tell you about in a sentence of about this length."


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


def behind_system_prompts(model: Any, tokenizer: Any, rows: int, repetitions: int) -> Iterator[str]:
    """What two system prompts say of given and of generated answers, a line each."""
    questions = [json.loads(line)["question"] for line in POOL.read_text(encoding="utf-8").splitlines()[:rows]]
    for system in ([], [{"role": "system", "content": " ".join([RULE] * 8)}]):
        asked = [[*system, {"role": "user", "content": question}] for question in questions]
        given = [[{"role": "assistant", "content": ANSWER}]] * len(asked)
        tokenised = tokenised_completions(Dataset.from_dict({"prompt": asked, "completion": given}), tokenizer)
        prompts = [shared_prompts.prompt_of(row) for row in tokenised]
        common = f"identity, {shared_prompts.tokens_in_common(prompts)} tokens in common"
        read = partial(tokenised_likelihoods, model, tokenizer, tokenised, 16)
        config = ElicitationConfig(batch_size=16, max_new_tokens=24)
        stops = {"pad_token_id": tokenizer.pad_token_id, "eos_token_ids": [tokenizer.eos_token_id]}
        generate = partial(generate_completions, model, prompts, config, **stops)

        ratio, once, each = in_turn(shared_prompts, "reads_prompts_once", lambda _: False, read, repetitions)
        difference = max(abs(a.nats - b.nats) for a, b in zip(once, each, strict=True))
        yield f"{common}: likelihoods {ratio:.2f} x as fast, differ by {difference:.0e} nats at most"
        ratio, once, each = in_turn(Beginning, "read", lambda *_: None, generate, repetitions)
        others = sum(a.token_ids != b.token_ids for a, b in zip(once, each, strict=True))
        yield f"{common}: answers {ratio:.2f} x as fast, {others} of {len(prompts)} differ"


def in_turn(
    owner: Any, name: str, without: Callable[..., Any], measured: Callable[[], list[Any]], repetitions: int
) -> tuple[float, list[Any], list[Any]]:
    """CPU seconds without over those with, and what both give; the first pair warms up and does not count."""
    ratios = []
    for _ in range(1 + repetitions):
        start = time.process_time()
        once = measured()
        between = time.process_time()
        with patch.object(owner, name, without):
            each = measured()
        ratios.append((time.process_time() - between) / (between - start))
    return median(ratios[1:]), once, each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--tasks", nargs="+", default=["qasc", "dental", "openbookqa"])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
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
    for line in behind_system_prompts(model, tokenizer, options.rows, options.repetitions):
        print(line, flush=True)


if __name__ == "__main__":
    main()
