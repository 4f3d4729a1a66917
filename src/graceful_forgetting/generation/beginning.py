"""What prompts begin with in common, such as a system prompt: read once, for all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from graceful_forgetting.generation.mode import generation_mode
from graceful_forgetting.gradients.shared_prompts import read_into, reads_prompts_once, tokens_in_common


@dataclass(frozen=True)
class Beginning:
    """Keys and values of the tokens that all prompts begin with, of one row.

    Attributes:
        length: number of these tokens.
        cache: of a pass over them.
    """

    length: int
    cache: DynamicCache

    @classmethod
    def read(cls, model: PreTrainedModel | PeftModel, prompts: Sequence[list[int]]) -> "Beginning | None":
        """That of these prompts; none where it would not pay, or the model keeps more than plain keys and values."""
        length = tokens_in_common(prompts)
        if length == 0 or not reads_prompts_once(model):
            return None
        cache = DynamicCache(config=model.config)
        attended = torch.ones(1, length, dtype=torch.long, device=model.device)
        with generation_mode(model), torch.no_grad():
            read_into(cache, model, [prompts[0][:length]], attended)
        return cls(length, cache) if all(layer.get_seq_length() == length for layer in cache.layers) else None

    def of_rows(self, padding: Sequence[int]) -> DynamicCache:
        """Keys and values of the first `length` columns of rows whose prompts stand behind so much padding.

        The last tokens of the beginning stand in later columns where there is padding, and are read with the rest.
        """

        def shifted(kept: Any) -> Any:
            return torch.cat([pad(kept, (0, 0, left, 0))[:, :, : self.length] for left in padding])

        found = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            found.update(shifted(layer.keys), shifted(layer.values), number)
        return found
