"""How well a model does a task: answers generated greedily, and the likelihood of the given ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import require_pad_token, tokenize_prompt
from graceful_forgetting.evaluation.likelihood import (
    CompletionLikelihood,
    completion_text,
    tokenised_completions,
    tokenised_likelihoods,
)
from graceful_forgetting.generation import check_context, generate_completions, stop_token_ids
from graceful_forgetting.results.result import ChoiceMetrics, Role, TaskMetrics
from graceful_forgetting.tasks import Task, score_answers


@dataclass(frozen=True)
class TaskItems:
    """One model's outcome on every row of a test set, in the order of the rows.

    Attributes:
        row: identifiers, where the rows have them; else positions.
        generated: the model's answers; none where nothing was generated.
        correct: whether the generated answer is right; none where answers are not right or wrong.
        score: 1 or 0, token F1, or chrF of the generated answer (`AnswerScores.scores`).
        nats: negative log-likelihood of the given completion, EOS included.
        tokens: its tokens, EOS included.
        bytes: its length in UTF-8.
        choice_log_likelihoods: of every option, without EOS, in the order of `choices`; none but for multiple choice.
        choice_correct: whether the right option has the highest log-likelihood per byte.
    """

    row: list[str]
    generated: list[str] | None
    correct: list[bool] | None
    score: list[float] | None
    nats: list[float]
    tokens: list[int]
    bytes: list[int]
    choice_log_likelihoods: list[list[float]] | None
    choice_correct: list[bool] | None


class EvaluationRows:
    """Test rows as models read them: tokenised once for all models that are tested on them.

    Args:
        rows: `prompt`, `completion`; `answer` where a task is given; `choices` for multiple choice.
        processing_class: the tokenizer.
    """

    def __init__(self, rows: Dataset, processing_class: PreTrainedTokenizerBase):
        self.rows = rows
        self.processing_class = processing_class

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        """Of every row, what an answer is generated from."""
        return [tokenize_prompt(row, self.processing_class) for row in self.rows]

    @cached_property
    def options(self) -> list[list[dict[str, Any]]]:
        """Of every row, each of its `choices` after its prompt; without choices, the completion alone."""
        pairs_of_rows = [
            [{"prompt": row["prompt"], "completion": text} for text in row.get("choices") or [row["completion"]]]
            for row in self.rows
        ]
        pairs = Dataset.from_list([pair for pairs in pairs_of_rows for pair in pairs])
        flat = iter(tokenised_completions(pairs, self.processing_class))
        return [[next(flat) for _ in pairs] for pairs in pairs_of_rows]


def evaluate_items(
    model: PreTrainedModel | PeftModel,
    test: EvaluationRows,
    role: Role,
    task: Task | None,
    *,
    batch_size: int,
    max_new_tokens: int,
    description: str,
    generate: bool = True,
) -> tuple[TaskMetrics, TaskItems]:
    """Score greedy answers by the task's metric, and the likelihood of the given answers and of all options.

    Args:
        model: any causal language model, at the weights to evaluate.
        test: the rows, tokenised for it.
        role: of the task in the run.
        task: how answers are read and scored; none: exact match of the stripped text.
        batch_size: rows per pass.
        max_new_tokens: longest answer.
        description: label of the progress bar.
        generate: off: likelihoods alone, and nothing that needs a generated answer.

    Raises:
        ValueError: a prompt or row that does not fit into the model's context.
        ImportError: the task's metric needs a package that is not installed.
    """
    rows = test.rows
    metrics = TaskMetrics(role=role, accuracy=None, correct=None, total=len(rows))
    generated = correct = score = None
    if generate:
        generated = _generate_answers(model, test, batch_size, max_new_tokens, description)
        correct, score = _score(metrics, task, generated, rows)
    likelihoods = _likelihoods(model, test, batch_size, description)
    given = [row[position] for row, position in zip(likelihoods, _right_positions(rows), strict=True)]
    metrics.bits_per_byte, metrics.nll_per_token = _totals(given)
    choice_correct = None
    if "choices" in rows.column_names:
        choice_correct = _by_likelihood(likelihoods, rows, per_byte=True)
        metrics.choice = _choice_metrics(likelihoods, rows)
    items = TaskItems(
        row=list(rows["row"]) if "row" in rows.column_names else [str(index) for index in range(len(rows))],
        generated=generated,
        correct=correct,
        score=score,
        nats=[likelihood.nats for likelihood in given],
        tokens=[likelihood.tokens for likelihood in given],
        bytes=[likelihood.bytes for likelihood in given],
        choice_log_likelihoods=None
        if choice_correct is None
        else [[choice.log_likelihood for choice in choices] for choices in likelihoods],
        choice_correct=choice_correct,
    )
    return metrics, items


# Generated answers ---------------------------------------------------------------------------------------------------


def _generate_answers(
    model: PreTrainedModel | PeftModel, test: EvaluationRows, batch_size: int, max_new_tokens: int, description: str
) -> list[str]:
    processing_class = test.processing_class
    check_context(test.prompt_ids, model, max_new_tokens)
    completions = generate_completions(
        model,
        test.prompt_ids,
        ElicitationConfig(batch_size=batch_size, max_new_tokens=max_new_tokens),
        pad_token_id=require_pad_token(processing_class),
        eos_token_ids=stop_token_ids(model, processing_class),
        description=description,
    )
    return processing_class.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)


def _score(
    metrics: TaskMetrics, task: Task | None, generated: Sequence[str], rows: Dataset
) -> tuple[list[bool] | None, list[float]]:
    """Fill in what `metrics` says of generated answers; returns right or wrong, and the score, of every item."""
    if task is None:
        correct = [
            given.strip() == completion_text(wanted).strip()
            for given, wanted in zip(generated, rows["completion"], strict=True)
        ]
        metrics.accuracy, metrics.correct, metrics.unparsable = fmean(correct), sum(correct), 0
        return correct, [float(right) for right in correct]
    scores = score_answers(task, generated, rows["answer"])
    metrics.unparsable = scores.unparsable
    if scores.correct is not None:
        metrics.accuracy, metrics.correct = fmean(scores.correct), scores.num_correct
    if scores.metric == "f1":
        metrics.f1 = scores.value
    if scores.metric == "chrf":
        metrics.chrf = scores.value
    return scores.correct, scores.scores


# Likelihood of given answers -----------------------------------------------------------------------------------------


def _totals(likelihoods: Sequence[CompletionLikelihood]) -> tuple[float, float]:
    """Bits per UTF-8 byte (independent of the tokenizer), and nats per token.

    Totals over all rows, so long answers weigh more; the EOS token counts as tokens but not as bytes.
    """
    nats = math.fsum(likelihood.nats for likelihood in likelihoods)
    size = sum(likelihood.bytes for likelihood in likelihoods)
    tokens = sum(likelihood.tokens for likelihood in likelihoods)
    return nats / math.log(2) / max(size, 1), nats / max(tokens, 1)


def _likelihoods(
    model: PreTrainedModel | PeftModel, test: EvaluationRows, batch_size: int, description: str
) -> list[list[CompletionLikelihood]]:
    """Of every option of every row; without options, of the completion alone."""
    pairs = [pair for options in test.options for pair in options]
    flat = iter(tokenised_likelihoods(model, test.processing_class, pairs, batch_size, description))
    return [[next(flat) for _ in options] for options in test.options]


def _right_positions(rows: Dataset) -> list[int]:
    if "choices" not in rows.column_names:
        return [0] * len(rows)
    return [choices.index(completion) for choices, completion in zip(rows["choices"], rows["completion"], strict=True)]


def _by_likelihood(likelihoods: Sequence[Sequence[CompletionLikelihood]], rows: Dataset, per_byte: bool) -> list[bool]:
    """Whether the right option is the likeliest; of equal ones the first counts, as with an arg max."""
    right = []
    for choices, position in zip(likelihoods, _right_positions(rows), strict=True):
        values = [choice.log_likelihood / (choice.bytes if per_byte else 1) for choice in choices]
        right.append(values.index(max(values)) == position)
    return right


def _choice_metrics(likelihoods: Sequence[Sequence[CompletionLikelihood]], rows: Dataset) -> ChoiceMetrics:
    accuracy = fmean(_by_likelihood(likelihoods, rows, per_byte=False))
    per_byte = fmean(_by_likelihood(likelihoods, rows, per_byte=True))
    chance = fmean(1 / len(choices) for choices in likelihoods)
    return ChoiceMetrics(
        accuracy=accuracy,
        accuracy_per_byte=per_byte,
        chance=chance,
        adjusted=(accuracy - chance) / (1 - chance),
        adjusted_per_byte=(per_byte - chance) / (1 - chance),
    )
