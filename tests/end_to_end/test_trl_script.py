"""A script for TRL and the same script with two other names: both run, and the documentation shows their difference."""

import difflib
import runpy
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).with_name("scripts")


def difference() -> list[str]:
    old, new = ((SCRIPTS / name).read_text().splitlines() for name in ("sft.py", "lwf.py"))
    return list(difflib.unified_diff(old, new, "sft.py", "lwf.py", lineterm="", n=0))


def test_two_names_change_and_a_data_set_is_added() -> None:
    changes = difference()[2:]
    removed, added = ([line[1:] for line in changes if line[0] == sign] for sign in "-+")
    renamed = [
        line.replace("from trl", "from graceful_forgetting")
        .replace("SFTConfig", "LWFConfig")
        .replace("SFTTrainer", "LWFTrainer")
        for line in removed
    ]
    assert len(removed) == 3
    assert [line for line in added if line not in renamed] == [
        'forgetting = load_dataset("json", data_files=f"{folder}/forgetting.jsonl", split="train")',
        "    forget_dataset=forgetting,",
    ]
    page = (ROOT / "docs" / "how-to" / "trl.md").read_text()
    shown = page.split("```diff\n")[1].split("```")[0].splitlines()
    assert shown == [line for line in changes if not line.startswith("@@")]


# TRL's settings turn checkpointing on under the name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["sft", "lwf"])
def test_both_scripts_train(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_model: Any,
    tokenizer: Any,
    learning: Dataset,
    forgetting: Dataset,
    name: str,
) -> None:
    make_model(max_position_embeddings=128).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    learning.to_json(tmp_path / "learning.jsonl")
    forgetting.select_columns(["prompt"]).to_json(tmp_path / "forgetting.jsonl")
    output = tmp_path / "out"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(tmp_path / "model"), str(tmp_path), str(output)])
    runpy.run_path(str(SCRIPTS / f"{name}.py"))
    assert load_file(output / "adapter_model.safetensors")
    assert (output / "preparation" / "selection" / "selection.json").is_file() == (name == "lwf")
