"""Likelihood of completions: a prompt with several of them is read once, and its keys and values are kept.

As a model that generates does: prompts are padded on the left, completions follow on the right.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from graceful_forgetting.data import IGNORE_INDEX, collate
from graceful_forgetting.gradients.token_loss import (
    accepts_logits_to_keep,
    counted_logits,
    counted_targets,
    token_losses,
)
from graceful_forgetting.runtime.internals import rows_can_join, without_adapter


def reads_prompts_once(model: PreTrainedModel | PeftModel) -> bool:
    """Whether `completion_nats` reads the prompts of a model once.

    It keeps plain keys and values of all tokens: no window, no recurrent state, no learned prefix. And it is told
    positions: models that count columns themselves take padding on the left for text.
    """
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return False
    if not {"past_key_values", "position_ids"} <= inspect.signature(without_adapter(model).forward).parameters.keys():
        return False
    return rows_can_join(DynamicCache(config=model.config))


@torch.no_grad()
def completion_nats(model: Any, rows: Sequence[Any], pad_token_id: int) -> list[list[float]]:
    """Negative log-likelihood of every counted token of every row, in order.

    Args:
        model: a causal language model; left as it is.
        rows: tokenised (`input_ids`, `labels`). Those with the same tokens up to the first that counts have one prompt.
        pad_token_id: any token.
    """
    groups = _by_prompt(rows)
    # The last token of a prompt is read with the completions, which its logits begin.
    shared = len(groups) < len(rows) and all(len(prompt) > 1 for prompt in groups)
    if shared and not model.training and reads_prompts_once(model):
        return _read_once(model, rows, groups, pad_token_id)
    batch = collate(rows, pad_token_id, model.device)
    positions, targets = counted_targets(batch)
    return _in_rows(counted_logits(model, batch, positions), targets)


def prompt_of(row: Mapping[str, Any]) -> list[int]:
    """The tokens of a row up to the first that counts."""
    start = next((place for place, label in enumerate(row["labels"]) if label != IGNORE_INDEX), 0)
    ids: list[int] = row["input_ids"][:start]
    return ids


def _by_prompt(rows: Sequence[Any]) -> dict[tuple[int, ...], list[int]]:
    """Numbers of the rows by prompt."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(prompt_of(row)), []).append(number)
    return groups


def _in_rows(logits: Tensor, targets: Tensor) -> list[list[float]]:
    counts = (targets != IGNORE_INDEX).sum(dim=1).tolist()
    return [part.tolist() for part in token_losses(logits, targets).split(counts)]


def _read_once(
    model: Any, rows: Sequence[Any], groups: dict[tuple[int, ...], list[int]], pad_token_id: int
) -> list[list[float]]:
    """`completion_nats` in two passes: one over the prompts, one over the completions."""
    width = max(map(len, groups)) - 1
    missing = [width + 1 - len(prompt) for prompt in groups]
    ids = [[pad_token_id] * less + list(prompt[:-1]) for less, prompt in zip(missing, groups, strict=True)]
    attended = torch.tensor([[0] * less + [1] * (width - less) for less in missing], device=model.device)
    cache = DynamicCache(config=model.config)
    keep: dict[str, Any] = {"logits_to_keep": 1} if accepts_logits_to_keep(model) else {}
    _pass(model, torch.tensor(ids, device=model.device), attended, cache, **keep)

    order = [number for numbers in groups.values() for number in numbers]
    lengths = [len(prompt) - 1 for prompt, numbers in groups.items() for _ in numbers]
    ends = [
        {name: rows[number][name][length:] for name in ("input_ids", "labels")}
        for number, length in zip(order, lengths, strict=True)
    ]
    batch = collate(ends, pad_token_id, model.device)
    positions, targets = counted_targets(batch)
    # On the CPU, whose indices serve keys and values on any device.
    prompts = torch.tensor([place for place, numbers in enumerate(groups.values()) for _ in numbers])
    cache.batch_select_indices(prompts)
    attended = torch.cat([attended[prompts], batch["attention_mask"]], dim=1)
    keep = {"logits_to_keep": positions} if accepts_logits_to_keep(model) else {}
    logits = _pass(model, batch["input_ids"], attended, cache, **keep)
    found = _in_rows(logits if keep else logits[:, positions], targets)
    return [nats for _, nats in sorted(zip(order, found, strict=True))]


def _pass(model: Any, ids: Tensor, attended: Tensor, cache: DynamicCache, **keep: Any) -> Tensor:
    """Logits of a pass over `ids`, whose keys and values are added to the cache; `attended`: of all tokens so far."""
    positions = (attended.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    inputs = {"input_ids": ids, "attention_mask": attended, "position_ids": positions, "past_key_values": cache}
    logits: Tensor = model(**inputs, **keep, use_cache=True).logits
    return logits
