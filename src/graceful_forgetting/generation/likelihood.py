"""Log-probabilities of given completions, by a forward pass of the model."""

from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from graceful_forgetting.data import IGNORE_INDEX, collate
from graceful_forgetting.generation.mode import generation_mode
from graceful_forgetting.gradients.token_loss import sequence_losses


def mean_log_probabilities(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pad_token_id: int,
) -> list[float]:
    """−L(x) of each completed prompt, in one forward pass: nats per completion token, EOS included."""
    rows = [
        {"input_ids": [*prompt, *ids], "labels": [IGNORE_INDEX] * len(prompt) + list(ids)}
        for prompt, ids in zip(prompts, completions, strict=True)
    ]
    batch = collate(rows, pad_token_id, model.device)
    labels = batch.pop("labels")
    with generation_mode(model), torch.no_grad():
        losses = sequence_losses(model(**batch, use_cache=False).logits, labels)
    return (-losses).tolist()


def distance_from_greedy(
    model: PreTrainedModel | PeftModel,
    prompt_ids: Sequence[int],
    completion_ids: Sequence[int],
    barred_first: Sequence[int] = (),
) -> list[float]:
    """For each completion token, how far its log-probability is below that of the likeliest token there (nats).

    `barred_first` are not among the tokens that the first one could have been.
    """
    ids = torch.tensor([[*prompt_ids, *completion_ids]], device=model.device)
    with generation_mode(model), torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].float()
    if barred_first:
        logits[:1, list(barred_first)] = -torch.inf
    chosen = logits.gather(1, ids[0, len(prompt_ids) :, None]).squeeze(1)
    gaps: list[float] = (logits.max(dim=-1).values - chosen).tolist()
    return gaps
