"""Batched completion of tokenised prompts through `model.generate`."""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import IGNORE_INDEX, collate, context_length, sequence_losses


@dataclass(frozen=True)
class Completion:
    """One generated completion.

    Attributes:
        token_ids: generated tokens, with the EOS token where `stopped`.
        stopped: whether the model ended it (otherwise `max_new_tokens` did).
        mean_log_probability: mean over `token_ids` of the natural log-probability under the model itself
            (temperature 1, whole vocabulary), that is −L(x).
    """

    token_ids: list[int]
    stopped: bool
    mean_log_probability: float

    @property
    def content_ids(self) -> list[int]:
        """`token_ids` without the EOS token."""
        return self.token_ids[:-1] if self.stopped else self.token_ids


def generate_completions(
    model: PreTrainedModel | PeftModel,
    prompt_ids: Sequence[Sequence[int]],
    config: ElicitationConfig,
    *,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    description: str = "Eliciting self-knowledge",
) -> list[Completion]:
    """Complete tokenised prompts; the completions come in the order of the prompts.

    Batches are made by length, longest first, so that a lack of memory shows at once. The model's mode and
    its generation settings are restored, and the latter are not used. Sampling draws row i from a random
    stream of its own, made from `config.seed` and i, so that neither batch size nor batch order matters; the
    caller's random state is not touched. `description` labels the progress bar.

    Raises:
        ValueError: a log-probability is not finite (the model's logits are not).
    """
    order = sorted(range(len(prompt_ids)), key=lambda i: -len(prompt_ids[i]))
    completions: dict[int, Completion] = {}
    start = time.perf_counter()
    tokens = 0
    with (
        _generation_mode(model),
        torch.no_grad(),
        tqdm(total=len(order), desc=description, unit="prompt", disable=None) as progress,
    ):
        for first in range(0, len(order), config.batch_size):
            batch = order[first : first + config.batch_size]
            prompts = [prompt_ids[i] for i in batch]
            generated = _generate(model, prompts, batch, config, pad_token_id, eos_token_ids)
            losses = _losses(model, prompts, generated, pad_token_id)
            for i, ids, loss in zip(batch, generated, losses, strict=True):
                if not math.isfinite(loss):
                    raise ValueError(
                        f"the completion of prompt {i} has log-probability {-loss}: the model's logits are "
                        "not finite; check its weights and dtype"
                    )
                completions[i] = Completion(ids, ids[-1] in eos_token_ids, mean_log_probability=-loss)
                tokens += len(ids)
            progress.update(len(batch))
            progress.set_postfix_str(f"{tokens / (time.perf_counter() - start):.0f} tokens/s")
    return [completions[i] for i in range(len(prompt_ids))]


def stop_token_ids(model: PreTrainedModel | PeftModel, processing_class: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a completion: the EOS tokens of the model's generation settings and of its tokenizer."""
    configured = model.generation_config.eos_token_id
    ids = set(configured if isinstance(configured, list) else [configured]) | {processing_class.eos_token_id}
    return sorted(ids - {None})


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


def _generate(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    row_numbers: Sequence[int],
    config: ElicitationConfig,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
) -> list[list[int]]:
    """New tokens of each prompt, up to and with the first EOS token."""
    width = max(map(len, prompts))
    padded = [[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    attended = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    settings = GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=pad_token_id,
        eos_token_id=list(eos_token_ids) or None,
    )
    sequences = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(attended, device=model.device),
        generation_config=settings,
        logits_processor=_sampling(row_numbers, config, model.device) if config.do_sample else None,
    )
    return [_until_stop(ids, eos_token_ids) for ids in sequences[:, width:].tolist()]


def _until_stop(ids: list[int], eos_token_ids: Sequence[int]) -> list[int]:
    end = next((position for position, token in enumerate(ids) if token in eos_token_ids), len(ids) - 1)
    return ids[: end + 1]


class _RowNoise(LogitsProcessor):
    """Gumbel noise on the logits: their argmax is then a draw from their softmax, from one stream a row."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._streams = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 (the library's signature)
        draws = [torch.empty_like(scores[0]).exponential_(generator=stream) for stream in self._streams]
        return scores - torch.stack(draws).log()


def _sampling(row_numbers: Sequence[int], config: ElicitationConfig, device: torch.device) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if config.temperature != 1:
        processors.append(TemperatureLogitsWarper(config.temperature))
    if config.top_p < 1:
        processors.append(TopPLogitsWarper(config.top_p))
    processors.append(_RowNoise([_row_seed(config.seed, row) for row in row_numbers], device))
    return processors


def _row_seed(seed: int, row: int) -> int:
    # Hashed, so that neighbouring seeds and rows do not share streams.
    digest = hashlib.blake2b(f"{seed}:{row}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _losses(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    generated: Sequence[Sequence[int]],
    pad_token_id: int,
) -> list[float]:
    """L(x) of each completed prompt."""
    # A forward pass of its own: the losses are then those that scoring will see, free of sampling settings,
    # and no logits need to be kept while generating.
    rows = [
        {"input_ids": [*prompt, *ids], "labels": [IGNORE_INDEX] * len(prompt) + list(ids)}
        for prompt, ids in zip(prompts, generated, strict=True)
    ]
    batch = collate(rows, pad_token_id, model.device)
    labels = batch.pop("labels")
    losses: list[float] = sequence_losses(model(**batch, use_cache=False).logits, labels).tolist()
    return losses


@contextmanager
def _generation_mode(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Evaluation mode and neutral generation settings; both are restored, each submodule's mode by itself.

    `generate` fills what a `GenerationConfig` leaves open from the model's own one (say, a repetition
    penalty), which would change whose knowledge is heard. Evaluation mode also keeps the key-value cache on
    where gradient checkpointing is enabled.
    """
    holders = [model, model.get_base_model()] if isinstance(model, PeftModel) else [model]
    # A PeftModel normally has no settings of its own and answers with those of its base model.
    settings = [holder.__dict__.get("generation_config") for holder in holders]
    training = [module for module in model.modules() if module.training]
    model.eval()
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, own in zip(holders, settings, strict=True):
            if own is None:
                del holder.generation_config
            else:
                holder.generation_config = own
        for module in training:
            module.training = True
