"""Prompts that name the answers to choose from: the model's own answer is the likeliest of them, not generated."""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import IGNORE_INDEX
from graceful_forgetting.data.encoding import encode_rows, row_parts
from graceful_forgetting.data.turns import as_turns
from graceful_forgetting.elicitation.backends import Backend
from graceful_forgetting.evaluation.likelihood import tokenised_likelihoods
from graceful_forgetting.generation import Completion, Request
from graceful_forgetting.generation.requests import until_stop
from graceful_forgetting.runtime.compact import TokenLists

OPTIONS_COLUMN = "options"


class OptionIds(Sequence[tuple[tuple[int, ...], ...]]):
    """Of each prompt the tokens of its options, each up to its end; empty where it has none. Read as a list is."""

    def __init__(self, folder: str | Path | None):
        self._ids, self._ends = TokenLists(folder=folder), array("q", [0])

    def append(self, options: Sequence[Sequence[int]]) -> None:
        """Those of the next prompt."""
        self._ids.extend(options)
        self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return tuple(map(tuple, self._ids[self._ends[index] : self._ends[index + 1]]))


def option_ids(
    prompts: Dataset,
    prompt_ids: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    eos_token_ids: Sequence[int],
    config: ElicitationConfig,
    folder: str | Path | None = None,
) -> OptionIds | None:
    """Of each prompt the tokens of its options, each up to its end; None where no prompt has any.

    Args:
        prompts: rows with `prompt` and perhaps `options`, a list of texts or None.
        prompt_ids: tokens of the prompts.
        folder: where they lie; None: in memory.

    Raises:
        ValueError: a row with a single option, an empty or a repeated one, or one whose tokens do not follow those of
            the prompt; several completions a prompt, which would all be the same.
    """
    if OPTIONS_COLUMN not in prompts.column_names:
        return None
    found, asks = OptionIds(folder), False
    # A part at a time: a call of the tokenizer for each prompt would take longer than the answers' likelihoods.
    for start, part in row_parts(prompts.select_columns(["prompt", OPTIONS_COLUMN]), "tokenising options"):
        pairs, places = [], []
        for index, row in enumerate(part, start):
            options = row[OPTIONS_COLUMN] or ()
            _check(index, options, config)
            in_turns = not isinstance(row["prompt"], str)
            for text in options:
                pairs.append({"prompt": row["prompt"], "completion": as_turns(text, "assistant") if in_turns else text})
                places.append((index, text))
        own: list[list[list[int]]] = [[] for _ in part]
        encoded_pairs = encode_rows(pairs, "prompt", tokenizer) if pairs else []
        for (index, text), encoded in zip(places, encoded_pairs, strict=True):
            asked = prompt_ids[index]
            if encoded.ids[: len(asked)] != asked:
                raise ValueError(
                    f"prompts: row {index} has the option {text!r}, whose first letters join the prompt's last token: "
                    "let the prompt end without a space and the option begin with one"
                )
            own[index - start].append(until_stop(encoded.ids[len(asked) :], eos_token_ids))
        for each in own:
            found.append(each)
        asks = asks or bool(pairs)
    return found if asks else None


def _check(index: int, options: Sequence[str], config: ElicitationConfig) -> None:
    if options and config.num_samples_per_prompt > 1:
        raise ValueError(
            f"num_samples_per_prompt={config.num_samples_per_prompt}, and prompts: row {index} has "
            "options, of which the likeliest is the answer every time: set it to 1, or remove the column `options`"
        )
    texts = {text.strip() for text in options}
    if options and (len(texts) < max(2, len(options)) or "" in texts):
        raise ValueError(
            f"prompts: row {index} has options={options!r}: give at least two texts, all different and none empty"
        )


@contextmanager
def choosing_among_options(
    backend: AbstractContextManager[Backend],
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    config: ElicitationConfig,
) -> Iterator[Backend]:
    """`backend` for requests without options; those with options are answered by likelihood under `model`."""
    with backend as inner:
        yield _LikeliestOption(inner, model, tokenizer, config.batch_size)


class _LikeliestOption:
    def __init__(
        self,
        inner: Backend,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
    ) -> None:
        self._inner, self._model, self._tokenizer, self._batch_size = inner, model, tokenizer, batch_size

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Positions in `requests` and their completions, as they are ready."""
        chosen = [position for position, request in enumerate(requests) if request.options]
        free = [position for position, request in enumerate(requests) if not request.options]
        for first in range(0, len(chosen), self._batch_size):
            part = chosen[first : first + self._batch_size]
            yield from zip(part, self._likeliest([requests[position] for position in part]), strict=True)
        if free:
            for position, completion in self._inner.complete([requests[position] for position in free]):
                yield free[position], completion

    def _likeliest(self, requests: Sequence[Request]) -> list[Completion]:
        rows = [_row(request.prompt_ids, option) for request in requests for option in request.options]
        found = iter(tokenised_likelihoods(self._model, self._tokenizer, rows, self._batch_size, "options"))
        completions = []
        for request in requests:
            nats, option = min((next(found).nats, option) for option in request.options)
            completions.append(Completion(list(option), stopped=True, mean_log_probability=-nats / len(option)))
        return completions


def _row(prompt: list[int], option: Sequence[int]) -> dict[str, Any]:
    labels = [IGNORE_INDEX] * len(prompt) + list(option)
    return {"input_ids": [*prompt, *option], "labels": labels, "end_tokens": 0, "bytes": 0}
