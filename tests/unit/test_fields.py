"""`graceful fields` and `graceful tasks list`, as a reader of a terminal of 100 columns meets them."""

import dataclasses

import pytest
from trl import SFTConfig

from graceful_forgetting.cli.command_line import main
from graceful_forgetting.cli.fields import fields_text
from graceful_forgetting.runs.recipe import recipe_fields
from graceful_forgetting.tasks.catalogue import task_list


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.startswith("  ") and not line.startswith("   ")]


def test_the_common_fields_come_first_and_every_field_is_there_once():
    text = fields_text([])
    assert names(text)[:3] == ["model_name_or_path", "learning_task", "forgetting_tasks"]
    titles = [line[:-1] for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[:3] == ["The common ones", "The run", "The model"]
    assert titles[-1] == "graceful base build"
    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    of_runs = names(text[: text.index("\nTRL's SFTConfig")])
    assert len(set(of_runs)) == len(of_runs)
    assert recipe_fields() - inherited <= set(of_runs)
    assert "weight_decay" in text[text.index("TRL's SFTConfig") :]
    assert max(len(line) for line in text.splitlines() if not line.startswith("  ")) <= 100


def test_a_word_finds_fields_by_name_and_help_and_those_of_trl_too():
    assert names(fields_text(["warmup"]))[0] == "warmup_steps"
    assert "unlearn_loss_cap" in names(fields_text(["NATS", "token"]))
    assert "learning_rate" not in names(fields_text(["nats", "token"]))


def test_a_word_that_no_field_has_is_an_error(capsys):
    assert main(["fields", "xyzzy"]) == 2
    assert "no field has 'xyzzy' in its name or its help" in capsys.readouterr().err


@pytest.mark.parametrize("width", [80, 100])
def test_the_list_of_tasks_fits_the_terminal(width):
    lines = task_list(width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].split()[:2] == ["gsm8k", "exact_match"]
    assert any(line.startswith("mmlu:<subject>") for line in lines)
