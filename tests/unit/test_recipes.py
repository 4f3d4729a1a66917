"""The committed recipes are valid, agree with each other, and their README says what the estimate computes."""

import runpy
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from graceful_forgetting.runs.recipe import parse_recipe
from graceful_forgetting.tasks import resolve_task

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
PAPER_TASKS = {"gsm8k", "qasc", "sst5", "dental", "psychol"}
ESTIMATE = runpy.run_path(str(ROOT / "evidence" / "speed" / "estimate_paper.py"))


@pytest.mark.parametrize("path", ["gsm8k_forget_dental.yaml", "paper/llama-3.2-1b.yaml", "paper/llama-3-8b.yaml"])
def test_recipe_is_read_and_its_tasks_are_known(path: str) -> None:
    run, lwf, model = parse_recipe(str(RECIPES / path), [])
    assert resolve_task(run.learning_task).name not in {resolve_task(name).name for name in run.forgetting_tasks}
    assert lwf.unlearn_every > 0
    assert model.model_name_or_path


def test_pair_of_tasks_is_chosen_on_the_command_line() -> None:
    flags = ["--learning_task", "qasc", "--forgetting_tasks", "gsm8k", "sst5"]
    run, _, _ = parse_recipe(str(RECIPES / "paper" / "llama-3.2-1b.yaml"), flags)
    assert (run.learning_task, run.forgetting_tasks) == ("qasc", ["gsm8k", "sst5"])


@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-3-8b"])
def test_grid_has_the_values_of_its_recipe_and_every_pair(name: str) -> None:
    recipe, grid = (
        yaml.safe_load((RECIPES / "paper" / f"{prefix}{name}.yaml").read_text(encoding="utf-8"))
        for prefix in ("", "grid-")
    )
    decided_by_grid = {"learning_task", "forgetting_tasks", "output_dir", "num_seeds", "seed"}
    assert grid["base"] == {key: value for key, value in recipe.items() if key not in decided_by_grid}
    assert set(grid["learning"]) == PAPER_TASKS
    assert set(grid["forgetting"]) == PAPER_TASKS | {"mixed"}
    assert len(grid["seeds"]) >= 3


@pytest.mark.parametrize("name", ["llama-3.2-1b", "llama-3-8b"])
def test_every_value_of_a_paper_recipe_says_where_it_comes_from(name: str) -> None:
    plain = {"output_dir", "logging_steps", "save_strategy", "elicitation_batch_size", "evaluation_batch_size"}
    for line in (RECIPES / "paper" / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#") and line.split(":")[0] not in {*plain, "neutral_text", "seed"}:
            assert "# ours" in line or "# paper (" in line, line


def test_tables_of_the_readme_are_computed() -> None:
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert text.count("<!-- estimate: ") == 2
    filled = ESTIMATE["filled"](text, ESTIMATE["TABLES"], "estimate")
    assert filled == text, "recipes/README.md is out of date: python -m evidence.speed.estimate_paper"


@pytest.mark.parametrize("name", sorted(ESTIMATE["SHAPES"]))
def test_parameters_are_those_of_the_model(name: str) -> None:
    shape = ESTIMATE["SHAPES"][name]
    head = 64 if shape.width == 2048 else 128
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=2,
        num_attention_heads=shape.width // head,
        num_key_value_heads=shape.key_value_width // head,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        two_layers = LlamaForCausalLM(config).num_parameters()
    layer = (shape.parameters - ESTIMATE["Shape"](*_with_layers(shape, 0)).parameters) / shape.layers
    assert two_layers == ESTIMATE["Shape"](*_with_layers(shape, 2)).parameters
    assert shape.parameters == two_layers + (shape.layers - 2) * layer


def _with_layers(shape, layers: int) -> tuple:
    return (shape.width, layers, shape.mlp, shape.key_value_width, shape.vocabulary, shape.tied)


def test_estimate_grows_with_what_it_is_made_of() -> None:
    recipe = yaml.safe_load((RECIPES / "paper" / "llama-3.2-1b.yaml").read_text(encoding="utf-8"))
    base = ESTIMATE["estimate"](recipe, "gsm8k", ["dental"])
    longer = ESTIMATE["estimate"]({**recipe, "num_train_epochs": 6}, "gsm8k", ["dental"])
    assert longer.hours["plain"] == pytest.approx(2 * base.hours["plain"])
    assert longer.hours["posterior"] == base.hours["posterior"]
    wider = ESTIMATE["estimate"]({**recipe, "per_device_train_batch_size": 32}, "gsm8k", ["dental"])
    assert wider.training_bytes > base.training_bytes
    assert wider.scoring_bytes == base.scoring_bytes
    # Weights, gradients and two AdamW states in 32 bit are 24 bytes a parameter.
    assert base.training_bytes > 24 * ESTIMATE["SHAPES"][recipe["model_name_or_path"]].parameters
