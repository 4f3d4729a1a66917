"""How well a model does a task: answers generated greedily, and the likelihood of the right answer."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import (
    IGNORE_INDEX,
    collate,
    require_pad_token,
    sequence_losses,
    tokenize_dataset,
    tokenize_prompt,
)
from graceful_forgetting.experiment.result import Role, TaskMetrics
from graceful_forgetting.generation import check_context, generate_completions, stop_token_ids
from graceful_forgetting.tasks import Task, score_answers


def evaluate_task(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    rows: Dataset,
    role: Role,
    task: Task | None,
    *,
    batch_size: int,
    max_new_tokens: int,
    description: str,
) -> TaskMetrics:
    """Accuracy of greedy answers and bits per byte of the given ones.

    Args:
        model: any causal language model, at the weights to evaluate.
        processing_class: its tokenizer.
        rows: `prompt`, `completion`, and `answer` where `task` is given.
        role: of the task in the run.
        task: how answers are read; none: exact match of the stripped text.
        batch_size: rows per pass.
        max_new_tokens: longest answer.
        description: label of the progress bar.

    Raises:
        ValueError: a prompt or row that does not fit into the model's context.
    """
    answers = _generate_answers(model, processing_class, rows, batch_size, max_new_tokens, description)
    unparsable = 0
    if task is None:
        correct = sum(
            given.strip() == wanted.strip() for given, wanted in zip(answers, rows["completion"], strict=True)
        )
    else:
        score = score_answers(task, answers, rows["answer"])
        correct, unparsable = score["num_correct"], score["num_unparsable"]
    bits_per_byte, nll_per_token = answer_likelihood(model, processing_class, rows, batch_size)
    return TaskMetrics(
        role=role,
        accuracy=correct / len(rows),
        correct=correct,
        total=len(rows),
        bits_per_byte=bits_per_byte,
        nll_per_token=nll_per_token,
        unparsable=unparsable,
    )


def _generate_answers(
    model: PreTrainedModel,
    processing_class: PreTrainedTokenizerBase,
    rows: Dataset,
    batch_size: int,
    max_new_tokens: int,
    description: str,
) -> list[str]:
    prompt_ids = [tokenize_prompt(row, processing_class) for row in rows]
    check_context(prompt_ids, model, max_new_tokens)
    completions = generate_completions(
        model,
        prompt_ids,
        ElicitationConfig(batch_size=batch_size, max_new_tokens=max_new_tokens),
        pad_token_id=require_pad_token(processing_class),
        eos_token_ids=stop_token_ids(model, processing_class),
        description=description,
    )
    return processing_class.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)


def answer_likelihood(
    model: PreTrainedModel, processing_class: PreTrainedTokenizerBase, rows: Dataset, batch_size: int
) -> tuple[float, float]:
    """Bits per UTF-8 byte of the given completions (independent of the tokenizer), and nats per token.

    Both are totals over all rows, so long answers weigh more; the EOS token counts as tokens but not as bytes.
    """
    tokenised = tokenize_dataset(rows, processing_class, argument="evaluation rows")
    pad_token_id = require_pad_token(processing_class)
    nats = tokens = 0.0
    training = model.training
    model.eval()
    try:
        for start in tqdm(range(0, len(rows), batch_size), desc="likelihood", leave=False, disable=None):
            batch = collate(
                [tokenised[i] for i in range(start, min(start + batch_size, len(rows)))],
                pad_token_id,
                model.device,
            )
            labels = batch.pop("labels")
            with torch.no_grad():
                losses = sequence_losses(model(**batch, use_cache=False).logits, labels)
            counts = (labels[:, 1:] != IGNORE_INDEX).sum(dim=1)
            nats += (losses * counts).sum().item()
            tokens += counts.sum().item()
    finally:
        model.train(training)
    size = sum(len(_text(completion).encode()) for completion in rows["completion"])
    return nats / math.log(2) / max(size, 1), nats / max(tokens, 1)


def _text(completion: str | Sequence[dict[str, Any]]) -> str:
    return completion if isinstance(completion, str) else "".join(turn["content"] for turn in completion)
