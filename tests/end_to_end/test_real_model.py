"""The real pre-trained model: that it is the one meant, and that a run goes through on it (`make test-real`)."""

import json

import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from evidence.real_model import check_real_model, make_real_model
from graceful_forgetting.cli import main
from graceful_forgetting.evaluation.likelihood import completion_likelihoods
from graceful_forgetting.runtime.artifacts import read_json

pytestmark = pytest.mark.real_model


def test_its_weights_are_those_of_the_wheel_and_it_is_written_once(real_model):
    check_real_model(real_model)
    assert not make_real_model(real_model)


def test_it_finds_right_capitals_likelier_than_wrong_ones(real_model):
    model = AutoModelForCausalLM.from_pretrained(real_model)
    tokenizer = AutoTokenizer.from_pretrained(real_model)
    capitals = {"France": "Paris", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima"}
    rows = [
        {"prompt": f"The capital of {country} is", "completion": f" {capital}"}
        for country in capitals
        for capital in capitals.values()
    ]
    with torch.no_grad():
        found = completion_likelihoods(model, tokenizer, Dataset.from_list(rows), batch_size=16)
    table = torch.tensor([likelihood.log_likelihood for likelihood in found]).view(4, 4)
    assert table.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_a_run_goes_through(tmp_path, real_model):
    for name, country in (("learn", "Atlantis"), ("forget", "France")):
        (tmp_path / name).mkdir()
        for split in ("train", "test"):
            rows = [
                {
                    "prompt": f"Question {n}: what is the capital of {country}? Answer:",
                    "completion": f" {name.title()}.",
                }
                for n in range(4)
            ]
            (tmp_path / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "model_name_or_path": str(real_model),
        "learning_task": str(tmp_path / "learn"),
        "forgetting_tasks": [str(tmp_path / "forget")],
        "forget_answers": "given",
        "forget_fraction": 0.5,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "eval_max_new_tokens": 4,
        "gradient_checkpointing": False,
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", "--config", str(tmp_path / "recipe.yaml")]) == 0
    unlearned = read_json(tmp_path / "run" / "result.json")["selection"]
    assert unlearned
