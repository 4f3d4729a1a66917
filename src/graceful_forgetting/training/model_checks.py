"""What a model and a tokenizer show of whether they belong together and can be fine-tuned, before any work."""

import copy
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.runtime.internals import without_adapter


def check_vocabulary(
    argument: str, model: PreTrainedModel | PeftModel, processing_class: PreTrainedTokenizerBase
) -> None:
    """Refuse tokens that the model has no embedding for.

    Special tokens that neither text nor the chat template gives may lie beyond: Gemma 3's text models come with one of
    images.

    Args:
        argument: what the caller calls the model, for errors.
        model: on any device, meta included.
        processing_class: its tokenizer.

    Raises:
        ValueError: names the token, its id, the number of embeddings and the remedy.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    config = model.config.get_text_config(decoder=True)
    for place, settings in (("config", config), ("generation_config", model.generation_config)):
        for name in ("eos_token_id", "pad_token_id"):
            given = getattr(settings, name, None)
            for token in given if isinstance(given, list | tuple) else [given]:
                # -1 stands for none in older configurations.
                if token is not None and not -1 <= token < rows:
                    raise ValueError(
                        f"{argument}: {name}={token} of its {place} is beyond its {rows} embeddings: correct "
                        f"{place}.json, or set model.{place}.{name}"
                    )
    ids: dict[str, int] = processing_class.get_vocab()
    special = {token for token, added in processing_class.added_tokens_decoder.items() if added.special}
    used = {processing_class.eos_token_id, processing_class.pad_token_id}
    template = str(processing_class.chat_template or "")
    beyond = sorted(
        (number, token)
        for token, number in ids.items()
        if number >= rows and (number in used or number not in special or token in template)
    )
    if beyond:
        number, token = beyond[0]
        raise ValueError(
            f"{argument}: token {token!r} of the tokenizer has id {number}, and the model has {rows} embeddings: take "
            f"the tokenizer of the model, or call model.resize_token_embeddings({max(ids.values()) + 1}) and save both"
        )


def check_generation_config(argument: str, model: PreTrainedModel | PeftModel) -> None:
    """Refuse generation settings with which transformers would not save the trained model.

    It saves a configuration that was changed, as the Trainer does with token ids, only where the strict check passes.

    Raises:
        ValueError: says what is wrong and where.
    """
    if not model.can_generate():
        return
    settings = copy.deepcopy(model.generation_config)
    # The Trainer puts the tokenizer's in its place.
    settings.pad_token_id = None
    try:
        settings.validate(strict=True)
    except ValueError as error:
        reasons = " ".join(line.strip(" -") for line in str(error).splitlines() if line.startswith("- ")) or str(error)
        raise ValueError(
            f"{argument}: its generation_config is not valid, so that the trained model could not be saved: "
            f"{reasons[:400]} Correct generation_config.json or model.generation_config"
        ) from error


def check_dequantised(argument: str, model: object) -> None:
    """Refuse a model that was read from a GGUF file as a quantised one, which the Trainer takes for untrainable.

    Raises:
        ValueError: names what to load it with.
    """
    quantised = getattr(model.config, "quantization_config", None) if isinstance(model, PreTrainedModel) else None
    if isinstance(quantised, GgufConfig):
        raise ValueError(
            f"{argument} was read from a GGUF file as a quantised model, which is neither trained nor saved: load it "
            "with from_pretrained(..., quantization_config=GgufConfig(dequantize=True))"
        )


@torch.no_grad()
def check_causal(argument: str, model: PreTrainedModel | PeftModel) -> None:
    """Refuse a model whose predictions depend on later tokens: an encoder such as BERT.

    Two short sequences that differ in the last token must have the same logits before it, but for rounding.

    Raises:
        ValueError: names the model's class and the remedy.
    """
    training = model.training
    model.eval()
    try:
        before, changed = (_logits(model, [0, 0, 0, last]) for last in (0, 1))
    finally:
        model.train(training)
    tolerance = torch.finfo(before.dtype).eps ** 0.5 * before.abs().max()
    if (before - changed).abs().max() > tolerance:
        raise ValueError(
            f"{argument}: {type(without_adapter(model)).__name__} sees later tokens when it predicts one, as an "
            "encoder does: use a causal language model, such as one of the Llama, Qwen, Gemma or SmolLM families"
        )


def _logits(model: Any, ids: list[int]) -> Tensor:
    tokens = torch.tensor([ids], device=model.device)
    logits: Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    return logits[:, :-1]
