"""A run of seconds: a model of two layers, a recipe and a grid that go through every stage."""

import json
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def write_model(folder: Path) -> None:
    """A Llama of two layers and its word-level tokenizer."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"w{number}" for number in range(60))]
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def rows(count: int, offset: int) -> list[dict[str, str]]:
    """Questions and answers of different lengths."""
    found = []
    for number in range(count):
        words = [f"w{(7 * number + 3 * place + offset) % 40}" for place in range(1 + (number + offset) % 4)]
        answer = [f"w{40 + (number + place + offset) % 20}" for place in range(1 + number % 3)]
        found.append({"prompt": " ".join(words), "completion": " " + " ".join(answer)})
    return found


def write_inputs(folder: Path, output: Path) -> tuple[Path, Path]:
    """Model, data, a recipe and a grid in `folder`; both write to `output`. Returns recipe and grid."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model")
    for task, offset in (("learn", 0), ("forget", 11)):
        (folder / task).mkdir()
        for split, count in (("train", 24), ("test", 6)):
            lines = [json.dumps(row) for row in rows(count, offset + (split == "test"))]
            (folder / task / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "model_name_or_path": str(folder / "model"),
        "learning_limit": 16,
        "validation_limit": 8,
        "max_steps": 6,
        "save_steps": 2,
        "logging_steps": 2,
        "per_device_train_batch_size": 4,
        "per_device_unlearn_batch_size": 4,
        "gradient_checkpointing": False,
        "elicitation_max_new_tokens": 4,
        "eval_max_new_tokens": 4,
        "unlearn_every": 2,
        "method": "lwf",
        "bf16": False,
    }
    tasks = {"learning_task": str(folder / "learn"), "forgetting_tasks": [str(folder / "forget")]}
    recipe, grid = folder / "recipe.yaml", folder / "grid.yaml"
    recipe.write_text(yaml.safe_dump({**settings, **tasks, "output_dir": str(output)}), encoding="utf-8")
    content = {
        "learning": {"learn": str(folder / "learn")},
        "forgetting": {"forget": [str(folder / "forget")]},
        "base": settings,
        "methods": {"plain": {"arm": "plain"}, "lwf": {}},
        "seeds": [0, 1],
        "curve_rows": 4,
        "evaluate_every": 3,
        "output_dir": str(output),
    }
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    return recipe, grid
