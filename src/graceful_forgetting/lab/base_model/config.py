"""Every setting of `graceful base build`."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

# The 256 bytes and the special tokens: every text can be encoded, so there is no unknown token.
MIN_VOCAB_SIZE = 256 + 3
# Token ids are stored as uint16.
MAX_VOCAB_SIZE = 2**16

# What may differ between two calls that continue one build.
FREE_FIELDS = ("output_dir", "steps", "save_every", "eval_every", "overwrite")


def _setting(default: Any, help: str) -> Any:
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class BaseModelConfig:
    """What a base model is trained on, its shape, and how it is trained.

    Raises:
        ValueError: a value out of range; the message names the field, the value and the fix.
    """

    output_dir: str = _setting(
        "models/base", "Folder of the build: prepared data, checkpoints, and the model in `model/`."
    )
    overwrite: bool = _setting(False, "Start anew where output_dir holds an earlier build.")

    text: list[str] = _setting(
        [], "Files and folders of text: .txt, .jsonl (`text`, or `prompt` and `completion`), also as .xz."
    )
    questions: list[str] = _setting(
        [], "Train rows that are mixed in: <task>@<file or folder>, <task> (from the hub), or a JSONL of one's own."
    )
    question_share: float = _setting(0.2, "Share of the training blocks that hold questions, where some are named.")
    eval_text: list[str] = _setting([], "Texts that are measured and never trained on, besides the held-out blocks.")

    vocab_size: int = _setting(4096, "Tokens of the byte-level BPE vocabulary, the special ones included.")
    hidden_size: int = _setting(256, "Width of the model.")
    intermediate_size: int = _setting(704, "Width of the MLPs.")
    num_layers: int = _setting(4, "Number of decoder layers.")
    num_heads: int = _setting(4, "Attention heads a layer.")
    num_key_value_heads: int = _setting(2, "Heads of keys and values; fewer than num_heads is grouped-query attention.")
    context_length: int = _setting(1024, "Longest sequence in tokens that the model accepts.")
    block_size: int = _setting(512, "Tokens of a training block; positions past it are accepted but never trained.")

    steps: int = _setting(1500, "Optimizer updates. May be raised when a build is continued before its rate decays.")
    batch_size: int = _setting(8, "Blocks a step.")
    optimizer: Literal["muon", "adamw"] = _setting(
        "muon", "muon: Muon for the matrices of the layers, AdamW for the rest; adamw: AdamW for all."
    )
    learning_rate: float = _setting(4e-3, "Peak learning rate.")
    warmup_steps: int = _setting(50, "Steps of linear warm-up.")
    decay_share: float = _setting(0.3, "Share of the steps, at the end, over which the rate falls to 0.")
    weight_decay: float = _setting(0.1, "Decoupled weight decay of matrices; norms have none.")
    max_grad_norm: float = _setting(1.0, "Gradients are clipped to this norm.")
    bf16: bool = _setting(False, "Mixed precision: matrix products in bfloat16, weights in float32.")
    device: str | None = _setting(None, "Where to train, such as cpu or cuda; unset: a GPU if there is one.")
    seed: int = _setting(42, "Decides initial weights and the order of the blocks.")

    save_every: int = _setting(100, "Steps between checkpoints.")
    eval_every: int = _setting(250, "Steps between measurements of bits per byte.")
    eval_blocks: int = _setting(128, "Most blocks that one measurement reads.")

    def __post_init__(self) -> None:
        for name in (
            *("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_key_value_heads"),
            *("steps", "batch_size", "save_every", "eval_every", "eval_blocks"),
        ):
            self._require(name, getattr(self, name) >= 1, "it must be 1 or more")
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            self._require(name, math.isfinite(value) and value > 0, "it must be above 0")
        for name in ("warmup_steps", "weight_decay"):
            self._require(name, getattr(self, name) >= 0, "it must be 0 or more")
        self._require("question_share", 0 <= self.question_share < 1, "it must be from 0 to below 1")
        self._require("decay_share", 0 <= self.decay_share <= 1, "it must be from 0 to 1")
        self._require("optimizer", self.optimizer in ("muon", "adamw"), "it must be muon or adamw")
        self._require(
            "vocab_size",
            MIN_VOCAB_SIZE <= self.vocab_size <= MAX_VOCAB_SIZE,
            f"it must be from {MIN_VOCAB_SIZE} (every byte and the special tokens) to {MAX_VOCAB_SIZE}",
        )
        self._require(
            "block_size",
            8 <= self.block_size <= self.context_length,
            f"it must be from 8 to context_length={self.context_length}",
        )
        # Rotary position embeddings turn pairs of dimensions, hence an even number a head.
        self._require(
            "hidden_size",
            self.hidden_size % (2 * self.num_heads) == 0,
            f"it must be a multiple of twice num_heads={self.num_heads}",
        )
        self._require(
            "num_key_value_heads",
            self.num_heads % self.num_key_value_heads == 0,
            f"it must divide num_heads={self.num_heads}",
        )
        if not self.text:
            raise ValueError("text=[] names nothing to train on; give a file or folder of text (--text folder)")
        if self.questions and self.question_share == 0:
            raise ValueError(
                "question_share=0.0 leaves the questions unread: set a share above 0, or name no questions"
            )

    def _require(self, name: str, holds: bool, must: str) -> None:
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} is not valid: {must}")

    @property
    def decay_start(self) -> int:
        """The step at which the learning rate begins to fall."""
        return self.steps - round(self.steps * self.decay_share)

    def rate(self, step: int) -> float:
        """The learning rate at a step (from 0): warm-up, constant, then 1 − √x (Hägele et al., arXiv 2405.18392).

        Until the fall begins it does not depend on `steps`, so that a build can be continued for longer.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if step < self.decay_start:
            return self.learning_rate
        return self.learning_rate * (1 - math.sqrt((step - self.decay_start) / (self.steps - self.decay_start)))
