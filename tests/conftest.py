"""Tiny models, tokenizers and data that every test may use; built in code, so that nothing reaches the network."""

import gc
import os

# What the imports make stays: a fifth of their time is looking for what of it does not.
gc.disable()

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

disable_progress_bar()

WORDS = [f"w{i}" for i in range(60)]


def pytest_collection_finish() -> None:
    """Leave what the imports made out of every later collection: accelerate collects at the start of each training."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Word-level: one token a word w0 ... w59."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


@pytest.fixture
def make_model() -> Callable[..., LlamaForCausalLM]:
    """Builds a Llama of 2 layers and width 32 from a seed; keywords go to its configuration."""

    def make(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        settings = {
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        }
        return LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))

    return make


@pytest.fixture
def real_model() -> Path:
    """Folder of SmolLM2-135M-Instruct; the test is skipped where there is none."""
    folder = Path(__file__).parents[1] / "models" / "smollm2-135m-instruct"
    if not (folder / "model.safetensors").is_file():
        pytest.skip("models/smollm2-135m-instruct is missing: make real-model")
    return folder


def _rows(count: int, offset: int) -> list[dict[str, str]]:
    rows = []
    for i in range(count):
        length = 1 + (i + offset) % 4
        prompt = " ".join(f"w{(7 * i + 3 * k + offset) % 40}" for k in range(length))
        completion = " " + " ".join(f"w{40 + (i + k + offset) % 20}" for k in range(1 + i % 3))
        rows.append({"prompt": prompt, "completion": completion})
    return rows


@pytest.fixture
def learning() -> Dataset:
    """24 prompt/completion rows of different lengths."""
    return Dataset.from_list(_rows(24, 0))


@pytest.fixture
def forgetting() -> Dataset:
    """16 prompt/completion rows that differ from the learning rows."""
    return Dataset.from_list(_rows(16, 11))
