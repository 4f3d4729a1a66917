"""Likelihood of completions: what prompts begin with in common is read once, and so is a prompt with several of them.

As a model that generates does: keys and values are kept, prompts are padded on the left, completions follow on the
right. What chat prompts have in common is the system prompt.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from graceful_forgetting.data import IGNORE_INDEX, collate
from graceful_forgetting.gradients.token_loss import (
    accepts_logits_to_keep,
    counted_logits,
    counted_targets,
    token_losses,
)
from graceful_forgetting.runtime.internals import CACHE, rows_can_join, without_adapter

_LEAST_COMMON = 16
"""Tokens that prompts begin with in common, from which a pass over them alone pays."""
_LEAST_SAVED = 0.25
"""Share of all tokens of the prompts that need not be read, from which it does."""


def reads_prompts_once(model: PreTrainedModel | PeftModel) -> bool:
    """Whether `completion_nats` reads what prompts have in common once.

    It keeps plain keys and values of all tokens: no window, no recurrent state, no learned prefix. And it is told
    positions: models that count columns themselves take padding on the left for text.
    """
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return False
    if not {CACHE, "position_ids"} <= inspect.signature(without_adapter(model).forward).parameters.keys():
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
    common = tokens_in_common(list(groups))
    shared = common > 0 or (len(groups) < len(rows) and all(len(prompt) > 1 for prompt in groups))
    if shared and not model.training and reads_prompts_once(model):
        return _read_once(model, rows, groups, common, pad_token_id)
    batch = collate(rows, pad_token_id, model.device)
    positions, targets = counted_targets(batch)
    return _in_rows(counted_logits(model, batch, positions), targets)


def read_into(cache: DynamicCache, model: Any, ids: list[list[int]], attended: Tensor) -> None:
    """A pass whose keys and values are added to those of a cache, and whose logits nobody needs.

    Args:
        cache: of what comes before; changed.
        model: a causal language model; left as it is.
        ids: (rows, tokens), as long as each other.
        attended: (rows, tokens so far and these) 1 where a token counts, 0 at padding.
    """
    keep: dict[str, Any] = {"logits_to_keep": 1} if accepts_logits_to_keep(model) else {}
    _pass(model, torch.tensor(ids, device=model.device), attended, cache, **keep)


def prompt_of(row: Mapping[str, Any]) -> list[int]:
    """The tokens of a row up to the first that counts."""
    start = next((place for place, label in enumerate(row["labels"]) if label != IGNORE_INDEX), 0)
    ids: list[int] = row["input_ids"][:start]
    return ids


def tokens_in_common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens that all prompts begin with are read once for them; 0 where that would not pay.

    The last token of a prompt is not among them: its logits begin a completion, so that it is read with that.
    """
    if len(prompts) < 2:
        return 0
    # All lie between the first and the last of them in lexicographic order.
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    alike = next((place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common = min(alike, min(map(len, prompts)) - 1)
    saved = common * (len(prompts) - 1)
    return common if common >= _LEAST_COMMON and saved >= _LEAST_SAVED * sum(map(len, prompts)) else 0


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
    model: Any, rows: Sequence[Any], groups: dict[tuple[int, ...], list[int]], common: int, pad_token_id: int
) -> list[list[float]]:
    """`completion_nats` in passes: over what prompts have in common, over the rest of them, and over the completions.

    Where each prompt has one completion, the last pass goes on from what they have in common.
    """
    cache = DynamicCache(config=model.config)
    attended = torch.ones(1, common, dtype=torch.long, device=model.device)
    if common:
        read_into(cache, model, [list(next(iter(groups))[:common])], attended)
    order = [number for numbers in groups.values() for number in numbers]
    lengths = dict.fromkeys(groups, common)
    if len(groups) < len(rows):
        lengths = {prompt: len(prompt) - 1 for prompt in groups}
    if max(lengths.values()) > common:
        width = max(lengths.values())
        ids = [[pad_token_id] * (width - end) + list(prompt[common:end]) for prompt, end in lengths.items()]
        filled = torch.tensor([[0] * (width - end) + [1] * (end - common) for end in lengths.values()])
        attended = torch.cat([attended.expand(len(groups), -1), filled.to(model.device)], dim=1)
        cache.batch_repeat_interleave(len(groups))
        read_into(cache, model, ids, attended)
        # On the CPU, whose indices serve keys and values on any device.
        prompts = torch.tensor([place for place, numbers in enumerate(groups.values()) for _ in numbers])
        cache.batch_select_indices(prompts)
        attended = attended[prompts]

    ends = [
        {name: rows[number][name][lengths[prompt] :] for name in ("input_ids", "labels")}
        for prompt, numbers in groups.items()
        for number in numbers
    ]
    batch = collate(ends, pad_token_id, model.device)
    positions, targets = counted_targets(batch)
    attended = torch.cat([attended.expand(len(rows), -1), batch["attention_mask"]], dim=1)
    cache.layers = [_Beginning(layer) for layer in cache.layers]
    keep = {"logits_to_keep": positions} if accepts_logits_to_keep(model) else {}
    logits = _pass(model, batch["input_ids"], attended, cache, **keep)
    found = _in_rows(logits if keep else logits[:, positions], targets)
    return [nats for _, nats in sorted(zip(order, found, strict=True))]


class _Beginning(DynamicLayer):
    """Keys and values that stand before those of a pass. The latter are not kept, since no pass follows.

    A beginning of one row stands before all rows, and takes no memory for each.
    """

    def __init__(self, read: Any) -> None:
        super().__init__()
        self.__dict__.update(vars(read))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        del args, kwargs
        rows = len(key_states)
        keys = torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2)


def _pass(model: Any, ids: Tensor, attended: Tensor, cache: DynamicCache, **keep: Any) -> Tensor:
    """Logits of a pass over `ids`, whose keys and values are added to the cache; `attended`: of all tokens so far."""
    positions = (attended.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    inputs = {"input_ids": ids, "attention_mask": attended, "position_ids": positions, CACHE: cache}
    logits: Tensor = model(**inputs, **keep, use_cache=True).logits
    return logits
