"""What a cell measures of its model: a curve while it trains, every answer and likelihood at its end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from graceful_forgetting.data import collate, require_pad_token
from graceful_forgetting.data.turns import as_turns
from graceful_forgetting.evaluation.evaluate import EvaluationRows, TaskItems, evaluate_items
from graceful_forgetting.evaluation.likelihood import tokenised_completions
from graceful_forgetting.evaluation.old_answers import OLD_ANSWER
from graceful_forgetting.gradients.token_loss import sequence_losses
from graceful_forgetting.results.measures import OLD, OTHER, RIGHT
from graceful_forgetting.results.result import Role, TaskMetrics
from graceful_forgetting.runtime.artifacts import read_json, write_json
from graceful_forgetting.runtime.progress import progress_bar
from graceful_forgetting.runtime.rng import preserved_rng
from graceful_forgetting.tasks import Task

TestSets = Mapping[str, tuple[Dataset, Role, Task | None]]


class Examiner:
    """Tests models on the same test sets, whose rows it tokenises once.

    Args:
        test_sets: by name: rows, role and task.
        learning_task: name of the one that is learned.
        processing_class: the tokenizer.
        batch_size, max_new_tokens: of the evaluation; 0 tokens: nothing is generated, and likelihoods are all there is.
    """

    def __init__(
        self,
        test_sets: TestSets,
        learning_task: str,
        processing_class: PreTrainedTokenizerBase,
        batch_size: int,
        max_new_tokens: int,
    ):
        self.test_sets = test_sets
        self.learning_task = learning_task
        self.processing_class = processing_class
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self._tests = {name: EvaluationRows(rows, processing_class) for name, (rows, _, _) in test_sets.items()}
        self._curve_tests: dict[int, EvaluationRows] = {}

    def curve_metrics(self, model: PreTrainedModel, count: int) -> TaskMetrics:
        """Accuracy and likelihood on evenly spaced rows of the learning task's test set, at most `count`."""
        if count not in self._curve_tests:
            own = self.test_sets[self.learning_task][0]
            spaced = own.select(range(0, len(own), math.ceil(len(own) / count)))
            self._curve_tests[count] = EvaluationRows(spaced, self.processing_class)
        return self._items(model, self.learning_task, self._curve_tests[count])[0]

    def measured(self, model: PreTrainedModel) -> dict[str, Any]:
        """Metrics of every test set, answers and truth ratios of the learning task's, as JSON values."""
        found = {name: self._items(model, name, self._tests[name]) for name in self.test_sets}
        return {
            "metrics": {name: asdict(metrics) for name, (metrics, _) in found.items()},
            "answers": _signs(found[self.learning_task][1], self._tests[self.learning_task]),
            "truth_ratios": self._truth_ratios(model),
        }

    def _items(self, model: PreTrainedModel, name: str, test: EvaluationRows) -> tuple[TaskMetrics, TaskItems]:
        _, role, task = self.test_sets[name]
        return evaluate_items(
            model,
            test,
            role,
            task,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
            description=name,
            generate=self.max_new_tokens > 0,
        )

    @cached_property
    def _old_answers(self) -> tuple[list[int], list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of the learning task's test set that have an old answer, tokenised with the right one and with the
        old one."""
        rows = self.test_sets[self.learning_task][0]
        known = [index for index, row in enumerate(rows) if row.get(OLD_ANSWER) is not None]
        if not known:
            return [], [], []
        chosen = rows.select(known)
        new = chosen.select_columns(["prompt", "completion"])
        old = Dataset.from_list([{"prompt": row["prompt"], "completion": old_completion(row)} for row in chosen])
        return (
            known,
            tokenised_completions(new, self.processing_class),
            tokenised_completions(old, self.processing_class),
        )

    def _truth_ratios(self, model: PreTrainedModel) -> list[float | None] | None:
        known, new, old = self._old_answers
        if not known:
            return None
        ratios: list[float | None] = [None] * len(self.test_sets[self.learning_task][0])
        for index, right, wrong in zip(known, self._losses(model, new), self._losses(model, old), strict=True):
            ratios[index] = round(right - wrong, 3)
        return ratios

    def _losses(self, model: PreTrainedModel, tokenised: Sequence[dict[str, Any]]) -> list[float]:
        """L(x) of every row."""
        pad_token_id = require_pad_token(self.processing_class)
        found: list[float] = []
        training = model.training
        model.eval()
        try:
            for start in progress_bar("truth ratios", "batches", iterable=range(0, len(tokenised), self.batch_size)):
                batch = collate(tokenised[start : start + self.batch_size], pad_token_id, model.device)
                labels = batch.pop("labels")
                with torch.no_grad():
                    found += sequence_losses(model(**batch, use_cache=False).logits, labels).tolist()
        finally:
            model.train(training)
        return found


def old_completion(row: Mapping[str, Any]) -> str | list[dict[str, Any]]:
    """The old answer in the form of the row's completion: a turn, or text with the white space that stands before."""
    completion, old = row["completion"], row[OLD_ANSWER]
    if not isinstance(completion, str):
        return as_turns(old, "assistant")
    lead = completion[: len(completion) - len(completion.lstrip())]
    return lead + old.strip()


def _signs(items: TaskItems, test: EvaluationRows) -> str:
    """One character an answer: of the generated ones, else of the likeliest options; without options no character."""
    if items.generated is None:
        correct = items.choice_correct or []
    else:
        correct = items.correct or test.are_given(items.generated)
    old = items.old or [False] * len(correct)
    return "".join(RIGHT if right else OLD if is_old else OTHER for right, is_old in zip(correct, old, strict=True))


class LearningCurve(TrainerCallback):
    """Tests the model on evenly spaced rows of the learning task before, during and after training.

    Args:
        examiner: how.
        every: learning updates from one test to the next.
        rows: number of test rows, at most.
        file: where the points are kept on the way, so that a resumed run has those from before.
    """

    def __init__(self, examiner: Examiner, every: int, rows: int, file: Path):
        self._examiner = examiner
        self._every = every
        self._rows = rows
        self._file = file
        self.points: list[dict[str, Any]] = []

    def _test(self, state: TrainerState, model: Any) -> None:
        with preserved_rng():
            metrics = self._examiner.curve_metrics(model, self._rows)
        self.points.append(
            {"step": state.global_step, "accuracy": metrics.accuracy, "bits_per_byte": metrics.bits_per_byte}
        )
        write_json(self._file, self.points)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Test the model as it starts, or take up the points from before a resumed checkpoint."""
        del args, control
        if state.global_step == 0:
            self._test(state, kwargs["model"])
        elif self._file.is_file():
            self.points = [point for point in read_json(self._file) if point["step"] <= state.global_step]

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Test the model where the curve has a point."""
        del args, control
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            self._test(state, kwargs["model"])
