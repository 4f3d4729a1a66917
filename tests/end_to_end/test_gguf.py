"""A model in a GGUF file: it trains, saves, scores and resumes, with the weights that the file stands for."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, TrainerCallback

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.cli import main
from graceful_forgetting.runs import gguf as reading
from graceful_forgetting.runs.gguf import dequantised_folder
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.recipe import parse_recipe
from graceful_forgetting.runtime.artifacts import read_json

pytest.importorskip("gguf", reason="the package gguf is not installed (extra gguf)")

from tests.gguf_file import CHAT_TEMPLATE, vocabulary, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRACEFUL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(make_model):
    return make_model(
        vocab_size=len(vocabulary()), intermediate_size=64, max_position_embeddings=128, bos_token_id=1, eos_token_id=2
    )


@pytest.fixture
def recipe(tmp_path, model):
    """A recipe on a folder with a GGUF file; fields are changed or added."""
    (tmp_path / "models").mkdir()
    write_gguf(model, tmp_path / "models" / "tiny.gguf")
    for name in ("learn", "forget"):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            rows = [{"prompt": f"{name} {number}:", "completion": f" {split[number % 4]}."} for number in range(6)]
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "model_name_or_path": str(tmp_path / "models"),
        "gguf_file": "tiny.gguf",
        "learning_task": str(tmp_path / "learn"),
        "forgetting_tasks": [str(tmp_path / "forget")],
        "forget_answers": "given",
        "forget_fraction": 0.5,
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "save_steps": 1,
        "eval_max_new_tokens": 3,
        "gradient_checkpointing": False,
    }

    def write(**changes) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**content, **changes}))
        return str(path)

    return write


def test_the_weights_are_those_that_the_file_stands_for(tmp_path, model):
    kept = write_gguf(model, tmp_path / "tiny.gguf")
    folder = dequantised_folder(str(tmp_path), "tiny.gguf")
    read = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert read.keys() == kept.keys()
    for name, weight in kept.items():
        torch.testing.assert_close(read[name], weight, rtol=0, atol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<eos>", 2)
    assert tokenizer.decode(tokenizer("Grüße 4").input_ids) == "Grüße 4"


def test_a_file_is_read_once_and_another_one_anew(tmp_path, model, monkeypatch):
    write_gguf(model, tmp_path / "tiny.gguf")
    folder = dequantised_folder(str(tmp_path), "tiny.gguf")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "tiny.gguf").rename(tmp_path / "elsewhere" / "renamed.gguf")
    with monkeypatch.context() as patch:
        patch.setattr(reading, "write_dequantised", None)
        assert dequantised_folder(str(tmp_path / "elsewhere"), "renamed.gguf") == folder
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    write_gguf(model, tmp_path / "tiny.gguf")
    assert dequantised_folder(str(tmp_path), "tiny.gguf") != folder
    assert dequantised_folder(str(tmp_path), "tiny.gguf", dtype="bfloat16") != folder


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_trains_saves_scores_and_resumes(tmp_path, recipe, lora):
    path = recipe(use_lora=lora, confidence_scorer="lwf")
    assert main(["run", "--config", path]) == 0
    result = read_json(tmp_path / "run" / "result.json")
    assert result["config"]["gguf_file"] == "tiny.gguf"
    saved = tmp_path / "run" / "plain" / "seed-42"
    assert (saved / ("adapter_model.safetensors" if lora else "model.safetensors")).is_file()
    if not lora:
        assert AutoModelForCausalLM.from_pretrained(saved).num_parameters() > 0
    # A second call finds every stage by its key, which the weights are in.
    before = (tmp_path / "run" / "scores" / "stage.json").read_text()
    assert main(["score", "--config", path]) == 0
    assert (tmp_path / "run" / "scores" / "stage.json").read_text() == before


def test_the_weights_are_in_the_fingerprints(tmp_path, recipe, model):
    def fingerprint() -> str:
        return Pipeline(*parse_recipe(recipe(), [])).inputs.base_fingerprint["weights"]

    first = fingerprint()
    assert fingerprint() == first
    with torch.no_grad():
        model.model.norm.weight.add_(1)
    write_gguf(model, tmp_path / "models" / "tiny.gguf")
    assert fingerprint() != first


class Stopped(Exception):
    pass


class StopAtFirstCheckpoint(TrainerCallback):
    def on_save(self, *args, **kwargs):
        raise Stopped


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, recipe, monkeypatch):
    whole = recipe(output_dir=str(tmp_path / "whole"))
    assert main(["train", "--config", whole]) == 0
    stopped = recipe(output_dir=str(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "_callbacks", lambda pipeline, name: [StopAtFirstCheckpoint()])
        with pytest.raises(Stopped):
            Pipeline(*parse_recipe(stopped, [])).train()
    assert main(["train", "--config", stopped]) == 0
    for arm in ("plain", "lwf"):
        weights = [
            (tmp_path / run / arm / "seed-42" / "model.safetensors").read_bytes() for run in ("whole", "stopped")
        ]
        assert weights[0] == weights[1]


def test_a_model_in_memory_is_loaded_dequantised(tmp_path, model, learning, forgetting):
    write_gguf(model, tmp_path / "tiny.gguf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")

    def train(**options) -> None:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", **options)
        args = LWFConfig(output_dir=str(tmp_path / "out"), max_steps=2, report_to=[], use_cpu=True, forget_count=4)
        trainer = LWFTrainer(
            loaded, args, train_dataset=learning, forget_dataset=forgetting, processing_class=tokenizer
        )
        trainer.train()
        trainer.save_model()

    with pytest.raises(ValueError, match=r"quantization_config=GgufConfig\(dequantize=True\)"):
        train()
    train(quantization_config=GgufConfig(dequantize=True))
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() == model.num_parameters()


def refused(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err


def test_what_is_refused(tmp_path, recipe, capsys):
    models = tmp_path / "models"
    message = refused(capsys, "run", "--config", recipe(gguf_file="other.gguf"))
    assert "gguf_file='other.gguf' is not in" in message
    assert "its GGUF files are tiny.gguf" in message
    message = refused(capsys, "run", "--config", recipe(model_name_or_path=str(models / "tiny.gguf"), gguf_file=None))
    assert "set model_name_or_path to its folder and gguf_file to 'tiny.gguf'" in message
    assert "set model_name_or_path" in refused(capsys, "run", "--config", recipe(model_name_or_path=None))
    world = {"world": "shortcut", "learning_task": None, "forgetting_tasks": None}
    assert "cannot be used with world='shortcut'" in refused(capsys, "run", "--config", recipe(**world))


@pytest.mark.parametrize("damage", ["half", "web page", "empty"])
def test_damaged_files(tmp_path, recipe, capsys, damage, cache):
    file = tmp_path / "models" / "tiny.gguf"
    path = recipe()
    content = file.read_bytes()
    file.write_bytes({"half": content[: len(content) // 2], "web page": b"<html></html>", "empty": b""}[damage])
    message = refused(capsys, "run", "--config", path)
    assert "tiny.gguf" in message
    assert ("cannot be read" if damage == "half" else "is no GGUF file, or a damaged one") in message
    assert not list(cache.rglob("*.safetensors"))


def test_the_extra_is_named_where_the_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'graceful-forgetting\[gguf\]'"):
        dequantised_folder(str(Path(tmp_path)), "tiny.gguf")
