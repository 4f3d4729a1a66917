"""Losses of learning and unlearning updates of two small runs, as they must be on every machine and in every split.

`python tests/invariant/trajectories.py` writes them anew into `trajectories.json`, which is right only after a change
that is meant to change them. With an output folder, as in `accelerate launch ... trajectories.py <folder>`, the runs
are made in as many processes as are launched, and their losses are written there.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graceful_forgetting import LWFConfig, LWFTrainer

FILE = Path(__file__).with_suffix(".json")
# Rows of a learning and of an unlearning update, whatever they are split into.
BATCH = 8
VOCABULARY = 64
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
RUNS: dict[str, dict[str, Any]] = {
    "full": {
        "learning_rate": 3e-3,
        "unlearn_learning_rate": 1.5e-3,
        "unlearn_objective": "bounded_ascent",
        "unlearn_loss_cap": 8.0,
        "unlearn_retain_weight": 0.0,
    },
    "lora": {
        "learning_rate": 1e-2,
        "unlearn_learning_rate": 5e-3,
        "unlearn_objective": "npo",
        "unlearn_retain_weight": 0.5,
    },
}
LOGGED = ("loss", "grad_norm", "unlearn_loss", "unlearn_grad_norm")
Trajectory = list[dict[str, float]]


def rows(count: int, offset: int) -> list[dict[str, Any]]:
    """Prompts of 1 to 5 and completions of 1 to 4 tokens, so that a mean over rows is not one over tokens."""
    made = []
    for i in range(count):
        ids = [4 + (7 * i + 5 * k + offset) % (VOCABULARY - 4) for k in range(2 + (i + offset) % 5 + i % 4)]
        prompt = 1 + (i + offset) % 5
        made.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return made


def train(
    name: str,
    folder: Path,
    *,
    per_device: int = BATCH,
    passes: int = 1,
    resume: Path | None = None,
    **settings: Any,
) -> Trajectory:
    """What is logged at each learning update of the run `name`, split into `passes` of `per_device` rows."""
    words = ["<pad>", "<eos>", *map(str, range(2, VOCABULARY))]
    vocabulary = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    forgetting = [{**row, "forgetting_confidence": float(i)} for i, row in enumerate(rows(16, 3))]
    trainer = LWFTrainer(
        LlamaForCausalLM(config),
        LWFConfig(
            str(folder),
            unlearn_every=2,
            max_steps=8,
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=passes,
            per_device_unlearn_batch_size=per_device,
            unlearn_gradient_accumulation_steps=passes,
            forget_fraction=0.75,
            logging_steps=1,
            save_strategy="steps",
            save_steps=4,
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            seed=7,
            **{"activation_checkpointing": False, **RUNS[name], **settings},
        ),
        train_dataset=Dataset.from_list(rows(40, 0)),
        forget_dataset=Dataset.from_list(forgetting),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>", eos_token="<eos>"),
        peft_config=LORA if name == "lora" else None,
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return [
        {"step": entry["step"]} | {key: round(entry[key], 6) for key in LOGGED if key in entry}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def main(output: Path | None) -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if output is None else output
        found = {name: train(name, folder / name, per_device=BATCH // processes) for name in RUNS}
    if os.environ.get("RANK", "0") == "0":
        (FILE if output is None else output / FILE.name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(None if len(sys.argv) == 1 else Path(sys.argv[1]))
