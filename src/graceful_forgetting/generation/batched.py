"""Completing many prompts together through `model.generate`."""

import time
from collections.abc import Iterator, Sequence

import torch
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.generation.choice import TokenChoice, draw_quantiles
from graceful_forgetting.generation.mode import generation_mode
from graceful_forgetting.generation.requests import Completion, Request, make_requests, require_finite, until_stop


def generate_completions(
    model: PreTrainedModel | PeftModel,
    prompt_ids: Sequence[Sequence[int]],
    config: ElicitationConfig,
    *,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    description: str = "Generating",
) -> list[Completion]:
    """Complete tokenised prompts; the completions come in the order of the prompts.

    Batches are made by length, longest first, so that a lack of memory shows at once. The model's mode and
    its generation settings are restored, and the latter are not used. Each completion is sampled from a random
    stream of its own (see `make_requests`); the caller's random state is not touched. `description` labels the
    progress bar.

    Raises:
        ValueError: a log-probability is not finite (the model's logits are not).
    """
    requests = make_requests(prompt_ids, config)
    order = longest_first(requests)
    batches = complete_batches(
        model, [requests[i] for i in order], config, pad_token_id=pad_token_id, eos_token_ids=eos_token_ids
    )
    completions: list[Completion] = []
    start = time.perf_counter()
    tokens = 0
    with tqdm(total=len(order), desc=description, unit="prompt", disable=None) as progress:
        for batch in batches:
            completions += batch
            tokens += sum(len(completion.token_ids) for completion in batch)
            progress.update(len(batch))
            progress.set_postfix_str(f"{tokens / (time.perf_counter() - start):.0f} tokens/s")
    return [completion for _, completion in sorted(zip(order, completions, strict=True), key=lambda pair: pair[0])]


def longest_first(requests: Sequence[Request]) -> list[int]:
    """Indices of `requests`, those with the longest prompts first and equal ones in their order."""
    return sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids))


def complete_batches(
    model: PreTrainedModel | PeftModel,
    requests: Sequence[Request],
    config: ElicitationConfig,
    *,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
) -> Iterator[list[Completion]]:
    """Complete `requests` in their order, `config.batch_size` at a time; yields the completions of each batch.

    Raises:
        ValueError: a log-probability is not finite (the model's logits are not).
    """
    for first in range(0, len(requests), config.batch_size):
        batch = requests[first : first + config.batch_size]
        with generation_mode(model), torch.no_grad():
            generated = _complete_batch(model, batch, config, pad_token_id, eos_token_ids)
        yield [
            Completion(ids, stopped=ids[-1] in eos_token_ids, mean_log_probability=require_finite(mean))
            for ids, mean in generated
        ]


def _complete_batch(
    model: PreTrainedModel | PeftModel,
    requests: Sequence[Request],
    config: ElicitationConfig,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
) -> list[tuple[list[int], float]]:
    """Tokens of each request, up to and with the first EOS token, and their mean log-probability.

    In rounds: when half of the rows have ended, `generate` returns, and the other half goes on alone.
    """
    device = model.device
    width = max(len(request.prompt_ids) for request in requests)
    padding = [width - len(request.prompt_ids) for request in requests]
    sequences = torch.tensor(
        [[pad_token_id] * pad + request.prompt_ids for pad, request in zip(padding, requests, strict=True)],
        device=device,
    )
    attended = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding], device=device)
    quantiles = draw_quantiles(requests, config.max_new_tokens, device) if config.do_sample else None
    log_probabilities = torch.empty(len(requests), 0, device=device)
    stops = torch.tensor(eos_token_ids, dtype=torch.long, device=device)
    rows = list(range(len(requests)))
    done: dict[int, tuple[list[int], float]] = {}
    cache: Cache | None = None
    while rows:
        generated = sequences.shape[1] - width
        choice = TokenChoice(None if quantiles is None else quantiles[:, generated:], config)
        enough = _HalfHaveEnded(stops, len(rows))
        output = model.generate(
            input_ids=sequences,
            attention_mask=attended,
            generation_config=GenerationConfig(
                max_new_tokens=config.max_new_tokens - generated,
                do_sample=False,
                use_cache=True,
                pad_token_id=pad_token_id,
                return_dict_in_generate=True,
            ),
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList([enough]),
            **({} if cache is None else {"past_key_values": cache}),
        )
        sequences = output.sequences
        log_probabilities = torch.cat([log_probabilities, choice.log_probabilities], dim=1)
        ended = enough.ended.tolist()
        if sequences.shape[1] - width == config.max_new_tokens:
            ended = [True] * len(rows)
        for position in (i for i, end in enumerate(ended) if end):
            ids = until_stop(sequences[position, width:].tolist(), eos_token_ids)
            done[rows[position]] = ids, log_probabilities[position, : len(ids)].mean().item()
        kept = [i for i, end in enumerate(ended) if not end]
        rows = [rows[i] for i in kept]
        left = torch.tensor(kept, dtype=torch.long, device=device)
        sequences, log_probabilities = sequences[left], log_probabilities[left]
        attended = torch.nn.functional.pad(attended[left], (0, sequences.shape[1] - attended.shape[1]), value=1)
        quantiles = None if quantiles is None else quantiles[left]
        cache = _rows_of(output.past_key_values, left) if rows else None
    return [done[row] for row in range(len(requests))]


def _rows_of(cache: Cache | None, rows: Tensor) -> Cache | None:
    """The key-value cache of some rows; None, so that it is computed again, for a cache that cannot be divided."""
    # Recurrent states, for one, have no selection of rows in transformers 5.23.
    if not isinstance(cache, DynamicCache) or not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
        return None
    cache.batch_select_indices(rows)
    return cache


class _HalfHaveEnded(StoppingCriteria):
    """Stops the whole batch once half of its rows have ended; `ended` says which have."""

    def __init__(self, eos_token_ids: Tensor, rows: int) -> None:
        self._eos_token_ids = eos_token_ids
        self._enough = (rows + 1) // 2
        self.ended = torch.zeros(rows, dtype=torch.bool, device=eos_token_ids.device)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:  # noqa: ARG002 (the library's)
        self.ended = self.ended | torch.isin(input_ids[:, -1], self._eos_token_ids)
        return self.ended | (self.ended.sum() >= self._enough)
