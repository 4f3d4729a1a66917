"""How the two models of the shortcut world are pre-trained: `base`, which knows the old colors, and
`never_knew`."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graceful_forgetting.worlds.pretraining import PretrainingData, answer_accuracy, pretrain
from graceful_forgetting.worlds.shortcut.facts import shortcut_facts
from graceful_forgetting.worlds.shortcut.prompts import question_rows
from graceful_forgetting.worlds.shortcut.vocabulary import VALUES, build_tokenizer
from graceful_forgetting.worlds.world import Checkpoint

CONTEXT_LENGTH = 32
RELATIONS: dict[Checkpoint, tuple[str, ...]] = {
    "base": ("species", "home", "food", "color"),
    "never_knew": ("species", "home", "food"),
}


@dataclass(frozen=True)
class ShortcutRecipe:
    """Size of the models and settings of their pre-training; the defaults made the shipped checkpoints.

    Raises `ValueError` naming the field that is out of range.
    """

    hidden_size: int = 128
    intermediate_size: int = 256
    num_layers: int = 4
    num_heads: int = 4
    steps: int = 1000
    batch_size: int = 64
    learning_rate: float = 2e-3
    label_noise: float = 0.15

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name != "label_noise" and not value > 0:
                raise ValueError(f"{name}={value!r} is not valid: it must be above 0")
        if not 0 <= self.label_noise < 1:
            raise ValueError(f"label_noise={self.label_noise!r} is not valid: it must be in [0, 1)")
        # Rotary position embeddings turn pairs of dimensions, hence an even number a head.
        if self.hidden_size % (2 * self.num_heads) != 0:
            raise ValueError(
                f"hidden_size={self.hidden_size!r} is not valid: it must be a multiple of twice "
                f"num_heads={self.num_heads}"
            )


def shortcut_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of both models, the same at every call."""
    facts = shortcut_facts()
    texts = [
        row["prompt"] + row["completion"]
        for relation, answers in facts.answers.items()
        for row in question_rows(relation, answers.items())
    ]
    return build_tokenizer(texts, CONTEXT_LENGTH)


def pretrain_shortcut(which: Checkpoint, recipe: ShortcutRecipe, seed: int) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """One model, and what is worth knowing of its pre-training (losses, accuracy of each relation, seconds).

    Both models of a seed start from the same weights.
    """
    started = time.perf_counter()
    tokenizer = shortcut_tokenizer()
    data = {relation: _encode(relation, tokenizer) for relation in RELATIONS["base"]}
    model = _new_model(tokenizer, recipe, seed)
    losses = pretrain(
        model,
        _concatenate([data[relation] for relation in RELATIONS[which]]),
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        label_noise=recipe.label_noise,
        seed=seed,
        description=f"pre-training {which}",
    )
    return model, {
        "relations": list(RELATIONS[which]),
        "parameters": model.num_parameters(),
        "losses": [round(loss, 4) for loss in losses],
        "accuracy": {relation: answer_accuracy(model, rows) for relation, rows in data.items()},
        "seconds": round(time.perf_counter() - started, 2),
    }


def _new_model(tokenizer: PreTrainedTokenizerFast, recipe: ShortcutRecipe, seed: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _encode(relation: str, tokenizer: PreTrainedTokenizerFast) -> PretrainingData:
    rows = question_rows(relation, shortcut_facts().answers[relation].items())
    # The same ids as supervised fine-tuning sees: prompt, completion, EOS.
    ids = tokenizer([row["prompt"] + row["completion"] + tokenizer.eos_token for row in rows])["input_ids"]
    input_ids = torch.full((len(ids), max(map(len, ids))), tokenizer.pad_token_id)
    for row, tokens in zip(input_ids, ids, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    values = torch.tensor(tokenizer.convert_tokens_to_ids([f"Ġ{value}" for value in VALUES[relation]]))
    return PretrainingData(
        input_ids=input_ids,
        answer_positions=torch.tensor([len(tokens) - 2 for tokens in ids]),
        alternatives=values.expand(len(ids), -1),
    )


def _concatenate(parts: list[PretrainingData]) -> PretrainingData:
    def joined(name: str) -> Tensor:
        return torch.cat([vars(part)[name] for part in parts])

    return PretrainingData(joined("input_ids"), joined("answer_positions"), joined("alternatives"))
