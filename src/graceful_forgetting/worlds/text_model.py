"""A small Llama-architecture language model trained from scratch on real text, for runs without a download.

It stands in for a pre-trained model where the whole method is tried on real rows: it writes text in the form
of the tasks but knows next to nothing about them, and with the default texts it has seen the train rows of
the samples. Runs with it show that every stage works on real rows, not whether forgetting helps.
"""

import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from graceful_forgetting.artifacts import atomic_directory, write_json
from graceful_forgetting.tasks import load_task
from graceful_forgetting.worlds.optimisation import optimise

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
# The 256 bytes and the special tokens: every text can be encoded, so there is no unknown token.
_MIN_VOCAB_SIZE = 256 + 3


def sample_texts(split: str = "train") -> list[str]:
    """Prompt and completion, joined, of the vendored rows of gsm8k and dental."""
    return [
        row["prompt"] + row["completion"]
        for name in ("gsm8k", "dental")
        for row in load_task(name, split, source="sample")
    ]


def build_text_model(
    output_dir: str | Path,
    texts: Iterable[str] | None = None,
    *,
    vocab_size: int = 2048,
    hidden_size: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    context_length: int = 1024,
    steps: int = 500,
    batch_size: int = 4,
    block_size: int = 256,
    learning_rate: float = 4e-3,
    seed: int = 42,
    overwrite: bool = False,
) -> Path:
    """Train a tokenizer and a causal language model on `texts` and save both to `output_dir`.

    Args:
        output_dir: new folder, made with its parents; gets model, tokenizer and `model.json` (settings,
            losses, time).
        texts: documents; none = `sample_texts()`, the train rows of the vendored task samples.
        vocab_size: most tokens of the byte-level BPE vocabulary; little text gives fewer.
        context_length: longest sequence that the model accepts, in tokens.
        steps: optimizer updates, each on `batch_size` blocks of `block_size` tokens of the shuffled
            documents.
        learning_rate: peak of AdamW's rate: warm-up over a tenth of the steps, then a cosine to 0.
        seed: decides initial weights and document order. The result is reproducible on one machine and torch
            version.
        overwrite: replace `output_dir` if it holds an earlier such model.

    Raises `NotADirectoryError` (a parent is a file), `FileExistsError` (`output_dir` exists), `ValueError` (a
    setting out of range, no text), before any training; `FloatingPointError` if the loss stops being finite.
    """
    settings = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "context_length": context_length,
        "steps": steps,
        "batch_size": batch_size,
        "block_size": block_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    output_dir = Path(output_dir).expanduser()
    _check_output(output_dir, overwrite)
    _check_settings(settings)
    documents = sample_texts() if texts is None else list(texts)
    if not any(documents):
        raise ValueError("texts holds no text; give at least one non-empty document")

    started = time.perf_counter()
    tokenizer = _train_tokenizer(documents, vocab_size, context_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=hidden_size,
                intermediate_size=3 * hidden_size,
                num_hidden_layers=num_layers,
                num_attention_heads=num_heads,
                num_key_value_heads=num_heads,
                max_position_embeddings=context_length,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
    tokens = [tokenizer(document)["input_ids"] + [tokenizer.eos_token_id] for document in documents]
    blocks = _blocks(tokens, batch_size, block_size, seed)

    def next_loss() -> torch.Tensor:
        batch = next(blocks)
        loss: torch.Tensor = model(input_ids=batch, labels=batch, use_cache=False).loss
        return loss

    losses = optimise(
        model, next_loss, steps=steps, learning_rate=learning_rate, weight_decay=0.1, description="pre-training"
    )

    with atomic_directory(output_dir) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_json(
            partial / "model.json",
            {
                "settings": settings,
                "documents": len(documents),
                "tokens": sum(len(document) for document in tokens),
                "bytes": sum(len(document.encode()) for document in documents),
                "vocabulary": len(tokenizer),
                "parameters": model.num_parameters(),
                "losses": losses,
                "seconds": round(time.perf_counter() - started, 2),
            },
        )
    return output_dir


def _check_output(output_dir: Path, overwrite: bool) -> None:
    for parent in output_dir.parents:
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(
                f"output_dir={str(output_dir)!r}: {parent} is a file, not a folder; choose another path"
            )
    if not output_dir.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"output_dir={str(output_dir)!r} exists already; choose another folder or set overwrite=True"
        )
    if not (output_dir / "model.json").is_file():
        raise FileExistsError(
            f"output_dir={str(output_dir)!r} is not an earlier text model (no model.json in it) and "
            "is not replaced; choose another folder"
        )


def _check_settings(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if name != "seed" and not value > 0:
            raise ValueError(f"{name}={value!r} is not valid: it must be above 0")
    if settings["vocab_size"] < _MIN_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size={settings['vocab_size']} is not valid: it must be at least {_MIN_VOCAB_SIZE} "
            "(every byte and the special tokens)"
        )
    # Rotary position embeddings turn pairs of dimensions, hence an even number a head.
    if settings["hidden_size"] % (2 * settings["num_heads"]) != 0:
        raise ValueError(
            f"hidden_size={settings['hidden_size']} is not valid: it must be a multiple of twice "
            f"num_heads={settings['num_heads']}"
        )
    if not 2 <= settings["block_size"] <= settings["context_length"]:
        raise ValueError(
            f"block_size={settings['block_size']} is not valid: it must be from 2 to "
            f"context_length={settings['context_length']}"
        )


def _train_tokenizer(documents: list[str], vocab_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits; puts BOS in front of every text, as Llama's tokenizers do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )


def _blocks(tokens: list[list[int]], batch_size: int, block_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless batches (batch_size, block_size) cut from the documents in a new order each epoch."""
    generator = random.Random(seed)
    stream: list[int] = []
    while True:
        while len(stream) < batch_size * block_size:
            for index in generator.sample(range(len(tokens)), len(tokens)):
                stream.extend(tokens[index])
        batch, stream = stream[: batch_size * block_size], stream[batch_size * block_size :]
        yield torch.tensor(batch).view(batch_size, block_size)
