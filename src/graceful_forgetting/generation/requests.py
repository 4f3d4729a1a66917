"""What is asked of a model and what comes back, whichever way it is generated."""

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import context_length

# Servers in languages whose numbers are doubles keep integers exact up to here.
_SEED_BITS = 53


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be generated.

    Attributes:
        prompt_ids: tokens to be completed.
        seed: of its own random stream; greedy decoding does not use it.
        options: tokens of the answers to choose from, their end included; none: anything is generated.
    """

    prompt_ids: list[int]
    seed: int
    options: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated completion.

    Attributes:
        token_ids: generated tokens, with the EOS token where `stopped`.
        stopped: whether the model ended it (otherwise `max_new_tokens` did).
        mean_log_probability: mean over `token_ids` of the natural log-probability under the model itself
            (temperature 1, whole vocabulary), that is −L(x).
        exact: whether `token_ids` are known to be the generated tokens; False where only text came back and the
            tokenizer makes other tokens of it.
    """

    token_ids: list[int]
    stopped: bool
    mean_log_probability: float
    exact: bool = True

    @property
    def content_ids(self) -> list[int]:
        """`token_ids` without the EOS token."""
        return self.token_ids[:-1] if self.stopped else self.token_ids


class Requests(Sequence[Request]):
    """`each` requests for each prompt, prompt by prompt, made when they are read: kept are 8 bytes a request.

    Args:
        prompt_ids: tokens of the prompts.
        seeds: one a request.
        options: of each prompt; None: none has any.
    """

    def __init__(
        self,
        prompt_ids: Sequence[list[int]],
        each: int,
        seeds: "array[int]",
        options: Sequence[tuple[tuple[int, ...], ...]] | None = None,
    ):
        self._prompt_ids, self._each, self._seeds, self._options = prompt_ids, each, seeds, options

    def __len__(self) -> int:
        return len(self._seeds)

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> list[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | list[Request]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index // self._each
        return Request(self._prompt_ids[place], self._seeds[index], self._options[place] if self._options else ())


def make_requests(
    prompt_ids: Sequence[list[int]],
    config: ElicitationConfig,
    options: Sequence[tuple[tuple[int, ...], ...]] | None = None,
) -> Requests:
    """`config.num_samples_per_prompt` requests for each prompt, prompt by prompt, with its options if it has some.

    A request's seed is made from `config.seed`, the prompt's tokens and the number of the draw, so that it depends
    neither on the other prompts nor on their order. A prompt that occurs again goes on counting its draws.
    """
    each, seeds = config.num_samples_per_prompt, array("Q")
    for ids, times in zip(prompt_ids, _times_before(prompt_ids), strict=True):
        prompt = json.dumps(ids)
        for draw in range(times * each, (times + 1) * each):
            digest = hashlib.blake2b(f"{config.seed}:{draw}:{prompt}".encode(), digest_size=8).digest()
            seeds.append(int.from_bytes(digest, "little") >> (64 - _SEED_BITS))
    return Requests(prompt_ids, each, seeds, options)


def _times_before(prompt_ids: Sequence[list[int]]) -> "array[int]":
    """How often each prompt has occurred before."""
    digests = bytearray()
    for ids in prompt_ids:
        digests += hashlib.blake2b(json.dumps(ids).encode(), digest_size=16).digest()
    # Arrays, since a dictionary takes ten times as much memory.
    prompts = numpy.frombuffer(digests, "S16")
    order = prompts.argsort(kind="stable")
    places, times = numpy.arange(len(prompts)), numpy.zeros(len(prompts), numpy.int64)
    again = numpy.zeros(len(prompts), bool)
    again[1:] = prompts[order][1:] == prompts[order][:-1]
    times[order] = places - numpy.maximum.accumulate(numpy.where(again, 0, places))
    return array("q", times.tobytes())


def until_stop(ids: Sequence[int], eos_token_ids: Sequence[int]) -> list[int]:
    """`ids` up to and with the first EOS token."""
    end = next((position for position, token in enumerate(ids) if token in eos_token_ids), len(ids) - 1)
    return list(ids[: end + 1])


def stop_token_ids(
    generation_config: GenerationConfig, processing_class: PreTrainedTokenizerBase, ends: Iterable[int] = ()
) -> list[int]:
    """Ids that end a completion: the EOS tokens of the model's generation settings and of its tokenizer, and `ends`,
    with which trained answers end (`graceful_forgetting.data.answer_ends`)."""
    configured = generation_config.eos_token_id
    ids = set(configured if isinstance(configured, list) else [configured]) | {processing_class.eos_token_id, *ends}
    return sorted(ids - {None})


def require_finite(mean_log_probability: float) -> float:
    """`mean_log_probability`, checked; raises `ValueError`."""
    if not math.isfinite(mean_log_probability):
        raise ValueError(
            f"a completion has log-probability {mean_log_probability}: the model's logits are not finite; check its "
            "weights and dtype"
        )
    return mean_log_probability


def check_context(prompt_ids: Sequence[Sequence[int]], model: PreTrainedModel | PeftModel, max_new_tokens: int) -> None:
    """Raise `ValueError` where a prompt and `max_new_tokens` do not fit the model's context or vocabulary."""
    text_config = model.config.get_text_config()
    largest = max(range(len(prompt_ids)), key=lambda i: max(prompt_ids[i]))
    if max(prompt_ids[largest]) >= text_config.vocab_size:
        raise ValueError(
            f"prompts: row {largest} has token id {max(prompt_ids[largest])}, and the model's vocabulary "
            f"ends at {text_config.vocab_size - 1}; processing_class does not belong to this model"
        )
    context = context_length(model.config)
    if context is None:
        return
    longest = max(range(len(prompt_ids)), key=lambda i: len(prompt_ids[i]))
    length = len(prompt_ids[longest])
    if length >= context:
        raise ValueError(
            f"prompts: row {longest} has {length} tokens, and the model's context of {context} leaves no "
            f"room for a completion; shorten it to at most {context - 1} tokens or remove it"
        )
    if length + max_new_tokens > context:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} does not fit: the longest prompt (row {longest}) has {length} "
            f"tokens of the model's context of {context}; the largest that fits is {context - length}"
        )
