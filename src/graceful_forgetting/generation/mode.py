"""Asking a model without leaving a trace on it."""

from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel


@contextmanager
def generation_mode(model: PreTrainedModel | PeftModel) -> Iterator[None]:
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
