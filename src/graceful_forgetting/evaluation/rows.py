"""Test rows as models read them: prompts, given answers and options as tokens, and generated tokens as answers."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from datasets import Dataset
from transformers import GenerationConfig, PreTrainedTokenizerBase

from graceful_forgetting.data import AnswerReader, answer_ends, completion_text
from graceful_forgetting.data.encoding import EncodedRow, RefusedRowError, encode_rows, encoded_in_parts
from graceful_forgetting.evaluation.likelihood import tokenised_options
from graceful_forgetting.generation import stop_token_ids
from graceful_forgetting.tasks import AnswerScores, Task, score_answers
from graceful_forgetting.tasks.task import shown

logger = logging.getLogger(__name__)


class EvaluationRows:
    """Test rows, tokenised once for all models that are tested on them.

    Args:
        rows: `prompt`, `completion`; `answer` where a task is given; `choices` for multiple choice.
        processing_class: the tokenizer.
    """

    def __init__(self, rows: Dataset, processing_class: PreTrainedTokenizerBase):
        self.rows = rows
        self.processing_class = processing_class
        self._readers: dict[tuple[int, ...], AnswerReader] = {}

    @cached_property
    def given(self) -> list[EncodedRow]:
        """Every prompt with its given completion."""
        return encoded_in_parts(
            self.rows, "tokenising test rows", lambda part: encode_rows(part, "prompt", self.processing_class)
        )

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        """Of every row, what an answer is generated from: how the prompt with its given answer begins.

        Raises:
            ValueError: a row whose answer is trained after other tokens than it would be generated from, or that has
                several turns of an answer.
        """
        for index, problem in enumerate(self.problems):
            if problem is not None:
                raise ValueError(f"row {index}: {problem}")
        return [row.ids[: row.start] for row in self.given]

    @cached_property
    def problems(self) -> list[str | None]:
        """Of every row, why no answer can be generated that compares with the given one; none where it can."""
        found = []
        for completion, row in zip(self.rows["completion"][:], self.given, strict=True):
            several = not isinstance(completion, str) and len(completion) > 1
            turns = f"completion has {len(completion)} turns, and one answer is generated for a test row: put the "
            found.append(f"{turns}earlier turns into the prompt" if several else row.misfit)
        return found

    @cached_property
    def options(self) -> list[list[dict[str, Any]]]:
        """Of every row, each of its `choices` after its prompt; without choices, the completion alone."""
        if "choices" not in self.rows.column_names:
            return tokenised_options([[row] for row in self.rows.to_list()], self.processing_class, self.given)
        pairs = [
            [{"prompt": row["prompt"], "completion": text} for text in row.get("choices") or [row["completion"]]]
            for row in self.rows.to_list()
        ]
        return tokenised_options(pairs, self.processing_class)

    def stops(self, generation_config: GenerationConfig) -> list[int]:
        """Tokens that end an answer of a model with these settings."""
        ends = answer_ends(self.processing_class, [self.rows[0]], self.given)
        return stop_token_ids(generation_config, self.processing_class, ends)

    def reader(self, stops: Sequence[int]) -> AnswerReader:
        """Reads answers as the given ones are read."""
        key = tuple(stops)
        if key not in self._readers:
            texts = [completion_text(completion) for completion in self.rows["completion"][:]]
            given = [(text, row.ids[row.start :]) for text, row in zip(texts, self.given, strict=True)]
            options = self.rows["choices"][:] if "choices" in self.rows.column_names else []
            given += [(completion_text(option), []) for own in options for option in own]
            self._readers[key] = AnswerReader(self.processing_class, stops, given)
        return self._readers[key]

    def are_given(self, texts: Sequence[str]) -> list[bool]:
        """Whether each of these answers is the given one: what counts as right where a task has no right or wrong."""
        given = map(completion_text, self.rows["completion"][:])
        return [own.strip() == text.strip() for own, text in zip(texts, given, strict=True)]

    def references(self, task: Task | None, reader: AnswerReader) -> list[str]:
        """What answers are compared with: column `answer`, or without a task the stripped text of the completion."""
        if task is not None:
            # Read from the completion, they have no white space around them.
            return [
                answer if (reference := reader.reference(answer)) == answer else reference.strip()
                for answer in self.rows["answer"][:]
            ]
        return [reader.reference(completion_text(completion)).strip() for completion in self.rows["completion"][:]]


def scored(task: Task | None, texts: Sequence[str], references: Sequence[str]) -> AnswerScores:
    """What answers are worth by the task's metric; without a task by exact match of the stripped text."""
    if task is not None:
        return score_answers(task, texts, references)
    correct = [text.strip() == reference for text, reference in zip(texts, references, strict=True)]
    return AnswerScores(
        "exact_match", sum(correct) / len(correct), [float(right) for right in correct], correct, unparsable=0
    )


def check_references(
    test: EvaluationRows, task: Task | None, generation_config: GenerationConfig, place: Callable[[int], str]
) -> None:
    """Refuse test rows on which even the given answer, if a model generated it, would not count as right.

    Args:
        test: the rows.
        task: how answers are read and scored; none: exact match.
        generation_config: of the model that will answer.
        place: what an error calls the row with this number.

    Raises:
        ValueError: names the row, what is wrong with it and the remedy.
    """
    try:
        problems = test.problems
    except RefusedRowError as error:
        raise ValueError(f"{place(error.position)} {error}") from error
    for index, problem in enumerate(problems):
        if problem is not None:
            raise ValueError(f"{place(index)}: {problem}")
    stops = test.stops(generation_config)
    reader = test.reader(stops)
    answers = [row.ids[row.start :] for row in test.given]
    texts, references = reader.given_texts[: len(answers)], test.references(task, reader)
    scores = scored(task, texts, references)
    right = scores.correct or [score > 99.99 for score in scores.scores]
    for index, text in enumerate(texts):
        if not references[index].strip():
            raise ValueError(f"{place(index)}: the answer is empty, and no answer counts as right: write it")
        if not right[index]:
            raise ValueError(
                f"{place(index)}: the answer {shown(references[index])} could never count as right: put through the "
                f"tokenizer{'' if isinstance(test.rows[index]['prompt'], str) else ' and the chat template'} and back, "
                f"it is {shown(text)}. Write it as it comes back, or correct the row, the tokenizer or how the task "
                "reads answers"
            )
    endless = next((index for index, ids in enumerate(answers) if not any(id in stops for id in ids)), None)
    if endless is not None:
        logger.warning(
            "%s: no special token ends the answer, so that a model does not learn to end it: let the chat template "
            "write eos_token after what the assistant says.",
            place(endless),
        )
