"""Completing many prompts together through `model.generate`."""

import math
import time
from array import array
from collections.abc import Iterator, Sequence

import numpy
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.generation.beginning import Beginning
from graceful_forgetting.generation.choice import TokenChoice, draw_quantiles
from graceful_forgetting.generation.mode import generation_mode
from graceful_forgetting.generation.requests import Completion, Request, make_requests, require_finite, until_stop
from graceful_forgetting.generation.rows import Rows
from graceful_forgetting.runtime.batches import BatchLimit
from graceful_forgetting.runtime.internals import CACHE, rows_can_leave
from graceful_forgetting.runtime.progress import progress_part


def generate_completions(
    model: PreTrainedModel | PeftModel,
    prompt_ids: Sequence[list[int]],
    config: ElicitationConfig,
    *,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    description: str = "Generating",
) -> list[Completion]:
    """Complete tokenised prompts; the completions come in the order of the prompts.

    The longest prompts come first, so that a lack of memory shows at once. The model's mode and
    its generation settings are restored, and the latter are not used. Each completion is sampled from a random
    stream of its own (see `make_requests`); the caller's random state is not touched. `description` labels the
    progress bar.

    Raises:
        ValueError: a log-probability is not finite (the model's logits are not).
    """
    requests = make_requests(prompt_ids, config)
    order = longest_first(requests)
    completions: dict[int, Completion] = {}
    start = time.perf_counter()
    tokens = 0
    with progress_part(description, "answers", len(order)) as progress:
        for position, completion in complete(
            model, [requests[i] for i in order], config, pad_token_id=pad_token_id, eos_token_ids=eos_token_ids
        ):
            completions[order[position]] = completion
            tokens += len(completion.token_ids)
            progress.update()
            progress.set_postfix_str(f"{tokens / (time.perf_counter() - start):.0f} tokens/s", refresh=False)
    return [completions[i] for i in range(len(requests))]


def longest_first(requests: Sequence[Request]) -> "array[int]":
    """Indices of `requests`, those with the longest prompts first and equal ones in their order."""
    lengths = numpy.fromiter((len(request.prompt_ids) for request in requests), numpy.int64, len(requests))
    return array("q", (-lengths).argsort(kind="stable").tobytes())


def complete(
    model: PreTrainedModel | PeftModel,
    requests: Sequence[Request],
    config: ElicitationConfig,
    *,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    may_be_empty: bool = True,
    limit: BatchLimit | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Complete `requests`, `config.batch_size` at a time; yields positions and completions as they are ready.

    Where memory runs out, those under way start again, half as many at a time: each has a random stream of its own, so
    that they come out the same. `limit` keeps that for further calls.

    Unless a completion `may_be_empty`, its first token is chosen among those that do not end it; the log-probability
    stays the model's own.

    Requests are started in their order, so neighbours should be of similar length. A row that has ended leaves; once a
    quarter of the batch is free, as many of the next rows take the places, or more where they are of one length; their
    keys and values are joined to those of the others. What all prompts begin with is read once. Models that keep more
    than plain keys and values (sliding windows, recurrent states) start whole batches instead, and rows only leave.

    Raises:
        ValueError: a log-probability is not finite (the model's logits are not); memory runs out for a single one.
    """
    limit = limit or BatchLimit("Generation", config.batch_size)
    left = list(range(len(requests)))
    while left:
        done: set[int] = set()
        with limit.attempt(min(limit.size, len(left))):
            for place, completion in _complete(
                model, [requests[i] for i in left], limit.size, config, pad_token_id, eos_token_ids, may_be_empty
            ):
                done.add(place)
                yield left[place], completion
        left = [position for place, position in enumerate(left) if place not in done]


def _complete(
    model: PreTrainedModel | PeftModel,
    requests: Sequence[Request],
    batch_size: int,
    config: ElicitationConfig,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    may_be_empty: bool,
) -> Iterator[tuple[int, Completion]]:
    """`complete`, `batch_size` at a time."""
    quantiles = draw_quantiles(requests, config.max_new_tokens, model.device) if config.temperature > 0 else None
    beginning = Beginning.read(model, [request.prompt_ids for request in requests])
    group = max(1, batch_size // 4)
    first = 0
    rows: Rows | None = None
    others_can_join = True
    while rows or first < len(requests):
        left, free = len(requests) - first, batch_size - len(rows or ())
        joining = rows is not None and rows.can_be_joined and 0 < min(group, left) <= free
        starting = joining or not rows
        if starting:
            least = min(group if others_can_join else free, left)
            numbers = range(first, first + _of_one_length(requests[first : first + free], least))
            first, left, free = numbers.stop, left - len(numbers), free - len(numbers)
            moving = Rows.start([requests[i] for i in numbers], numbers, pad_token_id, model.device, beginning)
        else:
            assert rows
            moving = rows
        if joining or (starting and others_can_join and 0 < min(group, left) <= free):
            # One token, which makes their keys and values.
            steps, enough = 1, len(moving)
        else:
            steps = config.max_new_tokens - max(moving.generated)
            enough = max(1, min(group, left) - free) if left and others_can_join else (len(moving) + 1) // 2
        with generation_mode(model), torch.no_grad():
            ended = _advance(model, moving, steps, enough, config, quantiles, pad_token_id, eos_token_ids, may_be_empty)
        for row in (i for i, end in enumerate(ended) if end):
            yield moving.numbers[row], _completion(*moving.answer(row), eos_token_ids)
        moving.keep([i for i, end in enumerate(ended) if not end])
        if starting and moving:
            others_can_join = moving.can_be_joined
        if not joining:
            rows = moving
        elif moving:
            assert rows
            rows.join(moving)


def _of_one_length(requests: Sequence[Request], least: int) -> int:
    """How many of `requests` to start together: the first `least`, and on as long as little of it is padding."""
    widest = tokens = 0
    for number, request in enumerate(requests):
        length = len(request.prompt_ids)
        widest, tokens = max(widest, length), tokens + length
        if number >= least and (number + 1) * widest > 1.05 * tokens:
            return number
    return len(requests)


def _completion(token_ids: list[int], log_probabilities: list[float], eos_token_ids: Sequence[int]) -> Completion:
    ids = until_stop(token_ids, eos_token_ids)
    mean = require_finite(math.fsum(log_probabilities[: len(ids)]) / len(ids))
    return Completion(ids, stopped=ids[-1] in eos_token_ids, mean_log_probability=mean)


def _advance(
    model: PreTrainedModel | PeftModel,
    rows: Rows,
    steps: int,
    enough: int,
    config: ElicitationConfig,
    quantiles: Tensor | None,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    may_be_empty: bool,
) -> list[bool]:
    """Generate at most `steps` tokens a row, until `enough` rows have ended; whether each has ended."""
    ahead = None
    if quantiles is not None:
        ahead = torch.stack(
            [quantiles[i, done : done + steps] for i, done in zip(rows.numbers, rows.generated, strict=True)]
        )
    fresh = [row for row, done in enumerate(rows.generated) if done == 0]
    barred = None if may_be_empty or not (fresh and eos_token_ids) else (fresh, list(eos_token_ids))
    choice = TokenChoice(ahead, config.temperature, barred)
    stop = _EnoughHaveEnded(torch.tensor(eos_token_ids, dtype=torch.long, device=model.device), len(rows), enough)
    output = model.generate(
        input_ids=rows.sequences,
        attention_mask=rows.attended,
        generation_config=GenerationConfig(
            max_new_tokens=steps,
            do_sample=False,
            use_cache=True,
            pad_token_id=pad_token_id,
            return_dict_in_generate=True,
        ),
        logits_processor=LogitsProcessorList([choice]),
        stopping_criteria=StoppingCriteriaList([stop]),
        **({} if rows.cache is None else {CACHE: rows.cache}),
    )
    new = output.sequences.shape[1] - rows.sequences.shape[1]
    cache = getattr(output, CACHE)
    rows.sequences, rows.cache = output.sequences, cache if rows_can_leave(cache) else None
    rows.attended = torch.nn.functional.pad(rows.attended, (0, new), value=1)
    rows.log_probabilities = torch.cat([rows.log_probabilities, choice.log_probabilities], dim=1)
    rows.generated = [done + new for done in rows.generated]
    stopped: list[bool] = stop.ended.tolist()
    return [end or done == config.max_new_tokens for end, done in zip(stopped, rows.generated, strict=True)]


class _EnoughHaveEnded(StoppingCriteria):
    """Stops the whole batch once `enough` of its rows have ended; `ended` says which have."""

    def __init__(self, eos_token_ids: Tensor, rows: int, enough: int) -> None:
        self._eos_token_ids, self._enough = eos_token_ids, enough
        self.ended = torch.zeros(rows, dtype=torch.bool, device=eos_token_ids.device)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:  # noqa: ARG002 (the library's)
        self.ended = self.ended | torch.isin(input_ids[:, -1], self._eos_token_ids)
        return self.ended | (self.ended.sum() >= self._enough)
