"""The flat settings: derived from the stage classes, with their defaults, under their own names in errors."""

import dataclasses

import pytest
from trl import SFTConfig

from graceful_forgetting import LWFConfig
from graceful_forgetting.config import ConfidenceConfig, changed
from graceful_forgetting.config.lwf import STAGES
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments
from graceful_forgetting.runs.recipe import recipe_from_fields

QUIET = {"bf16": False, "activation_checkpointing": False}


def config(**changes) -> LWFConfig:
    return LWFConfig(output_dir="unused", **{**QUIET, **changes})


@pytest.mark.parametrize("prefix", STAGES)
def test_a_stage_has_working_defaults_which_are_those_of_a_run(prefix):
    stage, flat = STAGES[prefix](), {field.name: field for field in dataclasses.fields(LWFConfig)}
    for field in dataclasses.fields(stage):
        if field.name != "seed":
            assert flat[prefix + field.name].default == field.default
            assert flat[prefix + field.name].metadata["help"] == field.metadata["help"]
    assert ConfidenceConfig().scorer == config().confidence_scorer


def test_settings_are_few():
    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    assert sum(field.name not in inherited for field in dataclasses.fields(LWFConfig)) <= 40
    assert len(dataclasses.fields(RunArguments)) + len(dataclasses.fields(ModelArguments)) <= 21


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_fraction": 25}, "^forget_fraction=25 is not valid"),
        ({"forget_fraction": 0.5, "forget_count": 3}, "^forget_fraction=0.5, forget_count=3 are set together"),
        ({"confidence_step_size": 0.0}, "^confidence_step_size=0.0"),
        ({"posterior_parameters": "all"}, "^posterior_parameters='all' .*last_blocks:N"),
        ({"forget_trials": True}, "^forget_trials=True .*none, during, both"),
        ({"baseline": "bss", "baseline_options": "{"}, "^baseline_options='{' is not valid JSON"),
    ],
    ids=str,
)
def test_errors_name_a_field_as_it_was_typed(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_options_of_a_baseline_are_its_own_or_its_defaults():
    args = config(baseline="shrink_perturb", baseline_options='{"shrink": 0.6}')
    assert (args.baseline_option("shrink"), args.baseline_option("noise")) == (0.6, 0.1)


def test_no_guard_in_python_and_on_a_command_line():
    assert config(guard_margin=None).guard_margin is None
    assert config(guard_margin=float("inf")).guard_margin is None


def test_changes_are_made_to_a_copy_and_checked_again():
    args = config()
    assert changed(args, unlearn_every=7).unlearn_every == 7
    assert args.unlearn_every == 2
    with pytest.raises(ValueError, match="forget_fraction=2"):
        changed(args, forget_fraction=2)
    with pytest.raises(AttributeError, match="no setting 'unlearn_evry'"):
        changed(args, unlearn_evry=7)


def test_a_recipe_takes_mappings_and_what_a_method_says():
    run, lwf, _ = recipe_from_fields(
        {"world": "arithmetic", "world_options": {"train_share": 0.2, "split": "validation"}, "output_dir": "unused",
         "method": "published", "model_init_kwargs": {"revision": "main"}, "guard_margin": 0.5, **QUIET},
        "here",
    )  # fmt: skip
    assert (run.world_difficulty().train_share, run.world_split) == (0.2, "validation")
    assert (lwf.guard_margin, lwf.guard_fallback, lwf.confidence_scorer) == (0.5, False, "lwf")
    assert lwf.model_init_kwargs == {"revision": "main"}
