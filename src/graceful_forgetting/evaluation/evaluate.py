"""How well a model does a task: answers generated greedily, and the likelihood of the given ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import AnswerReader, require_pad_token
from graceful_forgetting.evaluation.likelihood import CompletionLikelihood, tokenised_likelihoods
from graceful_forgetting.evaluation.old_answers import gives_old_answer
from graceful_forgetting.evaluation.rows import EvaluationRows, scored
from graceful_forgetting.generation import check_context, generate_completions
from graceful_forgetting.results.result import ChoiceMetrics, Role, TaskMetrics
from graceful_forgetting.tasks import Task


@dataclass(frozen=True)
class TaskItems:
    """One model's outcome on every row of a test set, in the order of the rows.

    Attributes:
        row: identifiers, where the rows have them; else positions.
        generated: the model's answers; none where nothing was generated.
        correct: whether the generated answer is right; none where answers are not right or wrong.
        score: 1 or 0, token F1, or chrF of the generated answer (`AnswerScores.scores`).
        old: whether the answer, generated or else the likeliest option per byte, is the old one; none where no row has
            an old answer.
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
    old: list[bool] | None
    nats: list[float]
    tokens: list[int]
    bytes: list[int]
    choice_log_likelihoods: list[list[float]] | None
    choice_correct: list[bool] | None


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
    generated = correct = score = old = None
    if generate:
        stops = test.stops(model.generation_config)
        reader = test.reader(stops)
        generated = _generate_answers(model, test, stops, reader, batch_size, max_new_tokens, description)
        correct, score = _score(metrics, task, generated, test.references(task, reader))
        old = gives_old_answer(generated, correct or test.are_given(generated), rows, task, reader)
    likelihoods = _likelihoods(model, test, batch_size, description)
    given = [row[position] for row, position in zip(likelihoods, _right_positions(rows), strict=True)]
    metrics.bits_per_byte, metrics.nll_per_token = _totals(given)
    choice_correct = None
    if "choices" in rows.column_names:
        choice_correct = _by_likelihood(likelihoods, rows, per_byte=True)
        metrics.choice = _choice_metrics(likelihoods, rows)
        if not generate:
            old = gives_old_answer(_likeliest_options(likelihoods, rows), choice_correct, rows, task)
    metrics.old = None if old is None else sum(old)
    items = TaskItems(
        row=rows["row"][:] if "row" in rows.column_names else [str(index) for index in range(len(rows))],
        generated=generated,
        correct=correct,
        score=score,
        old=old,
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
    model: PreTrainedModel | PeftModel,
    test: EvaluationRows,
    stops: Sequence[int],
    reader: AnswerReader,
    batch_size: int,
    max_new_tokens: int,
    description: str,
) -> list[str]:
    check_context(test.prompt_ids, model, max_new_tokens)
    completions = generate_completions(
        model,
        test.prompt_ids,
        ElicitationConfig(batch_size=batch_size, max_new_tokens=max_new_tokens),
        pad_token_id=require_pad_token(test.processing_class),
        eos_token_ids=stops,
        description=description,
    )
    return reader.texts([completion.token_ids for completion in completions])


def _score(
    metrics: TaskMetrics, task: Task | None, generated: Sequence[str], references: Sequence[str]
) -> tuple[list[bool] | None, list[float]]:
    """Fill in what `metrics` says of generated answers; returns right or wrong, and the score, of every item."""
    scores = scored(task, generated, references)
    metrics.unparsable = scores.unparsable
    if scores.correct is not None:
        metrics.accuracy, metrics.correct = fmean(scores.correct), sum(scores.correct)
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
    pairs = zip(rows["choices"][:], rows["completion"][:], strict=True)
    return [choices.index(completion) for choices, completion in pairs]


def _by_likelihood(likelihoods: Sequence[Sequence[CompletionLikelihood]], rows: Dataset, per_byte: bool) -> list[bool]:
    """Whether the right option is the likeliest; of equal ones the first counts, as with an arg max."""
    pairs = zip(likelihoods, _right_positions(rows), strict=True)
    return [_likeliest(choices, per_byte) == position for choices, position in pairs]


def _likeliest(choices: Sequence[CompletionLikelihood], per_byte: bool) -> int:
    values = [choice.log_likelihood / (choice.bytes if per_byte else 1) for choice in choices]
    return values.index(max(values))


def _likeliest_options(likelihoods: Sequence[Sequence[CompletionLikelihood]], rows: Dataset) -> list[str]:
    """The text of the likeliest option per byte of every row."""
    pairs = zip(rows["choices"][:], likelihoods, strict=True)
    return [options[_likeliest(choices, per_byte=True)] for options, choices in pairs]


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
