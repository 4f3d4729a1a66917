"""A whole run on tiny data of one's own."""

import json
from pathlib import Path

import pytest
import yaml

from formula import FORMULA


@pytest.fixture
def model_folder(tmp_path, make_model, tokenizer) -> Path:
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(tmp_path, model_folder, learning, forgetting) -> Path:
    write_jsonl(tmp_path / "arithmetic" / "train.jsonl", learning)
    write_jsonl(tmp_path / "arithmetic" / "test.jsonl", learning.select(range(6)))
    write_jsonl(tmp_path / "myths" / "train.jsonl", forgetting.select_columns(["prompt"]))
    write_jsonl(tmp_path / "myths" / "test.jsonl", forgetting.select(range(5)))
    content = FORMULA | {
        "model_name_or_path": str(model_folder),
        "learning_task": str(tmp_path / "arithmetic"),
        "forgetting_tasks": [str(tmp_path / "myths")],
        "output_dir": str(tmp_path / "run"),
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "learning_rate": "3e-3",
        "gradient_checkpointing": False,
        "logging_steps": 2,
        "save_steps": 3,
        "seed": 3,
        "elicitation_max_new_tokens": 4,
        "forget_fraction": 0.5,
        "unlearn_every": 2,
        "per_device_unlearn_batch_size": 4,
        "eval_max_new_tokens": 4,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
