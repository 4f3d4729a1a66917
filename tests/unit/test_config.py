"""The flat settings: derived from the stage classes, with their defaults, under their own names in errors."""

import contextlib
import dataclasses
import re

import numpy as np
import pytest
from transformers.trainer_utils import SaveStrategy
from trl import SFTConfig

from graceful_forgetting import LWFConfig
from graceful_forgetting.config import ConfidenceConfig, changed
from graceful_forgetting.config.flat import flat_names
from graceful_forgetting.config.lwf import STAGES
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments
from graceful_forgetting.runs.recipe import recipe_from_fields

QUIET = {"bf16": False, "activation_checkpointing": False}


def config(**changes) -> LWFConfig:
    return LWFConfig(**{"output_dir": "unused", **QUIET, **changes})


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
    assert len(dataclasses.fields(RunArguments)) + len(dataclasses.fields(ModelArguments)) <= 23


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_fraction": 25}, "^forget_fraction=25 is not valid"),
        ({"forget_fraction": 0.5, "forget_count": 3}, "^forget_fraction=0.5, forget_count=3 are set together"),
        ({"confidence_step_size": 0.0}, "^confidence_step_size=0.0"),
        ({"posterior_parameters": "all"}, "^posterior_parameters='all' .*last_blocks:N"),
        ({"forget_trials": True}, "^forget_trials=True .*none, during, both"),
        ({"baseline": "bss", "baseline_options": "{"}, "^baseline_options='{' is not valid JSON"),
        ({"learning_rate": "1e-4"}, "^learning_rate='1e-4' .* a number: write it without quotation marks"),
        ({"elicitation_batch_size": "8"}, "^elicitation_batch_size='8' .* a whole number"),
        ({"max_steps": True}, "^max_steps=True .* a whole number"),
        ({"unlearn_every": 1.5}, "^unlearn_every=1.5 .* a whole number"),
        ({"num_train_epochs": -1}, "^num_train_epochs=-1 .* above 0"),
        ({"unlearn_schedule": "periodc"}, "^unlearn_schedule='periodc' .*did you mean 'periodic'"),
        ({"eval_strategy": "step"}, "^eval_strategy='step' .*did you mean 'steps'"),
        ({"learning_rate": float("nan")}, "^learning_rate=nan .* a finite number"),
        ({"accelerator_config": {"split_batches": "x"}}, "^accelerator_config: split_batches='x' .* true or false"),
        ({"forget_quotas": {"myths": [1]}}, r"^forget_quotas={'myths': \[1\]} .* a mapping of names to numbers"),
    ],
    ids=str,
)
def test_errors_name_a_field_as_it_was_typed(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("prefix", "name"),
    [(prefix, f.name) for prefix, stage in STAGES.items() for f in dataclasses.fields(stage) if f.name != "seed"],
)
def test_a_bad_value_of_any_stage_is_named_as_it_was_typed(prefix, name):
    messages = []
    for value in (-1, 0, 1.5, 3, float("nan"), True, "no such", "", [], {"a": "b"}):
        for others in ({}, {"forget_fraction": 0.5}, {"elicitation_num_samples_per_prompt": 3}):
            with contextlib.suppress(ValueError):
                config(**{**others, prefix + name: value})
                continue
            messages.append(raised(config, **{**others, prefix + name: value}))
    assert len(messages) > 2
    for message in messages:
        bare = [f.name for stage in STAGES.values() for f in dataclasses.fields(stage)]
        assert not re.search(rf"(?<![\w'.])({'|'.join(bare)})(?=[=\[]| \(\d)", message), message


def raised(make, **settings) -> str:
    with pytest.raises(ValueError, match="=") as error:
        make(**settings)
    return str(error.value)


def test_errors_of_a_stage_name_its_settings_as_they_were_typed():
    def renamed(message: str, *prefixes: str) -> str:
        with (
            pytest.raises(ValueError, match=r".") as error,
            flat_names({prefix: STAGES[prefix] for prefix in prefixes}),
        ):
            raise ValueError(message)
        return str(error.value)

    message = "lower batch_size (8), or parameters='last_blocks:2'; a fraction of a token is no count: fraction=2"
    assert renamed(message, "confidence_", "posterior_") == (
        "lower confidence_batch_size (8), or posterior_parameters='last_blocks:2'; a fraction of a token is no count: "
        "fraction=2"
    )
    assert renamed("quotas['b']=2 and per_device_batch_size=1", "forget_") == (
        "forget_quotas['b']=2 and per_device_batch_size=1"
    )
    assert renamed("elicitation_max_new_tokens=2", "elicitation_") == "elicitation_max_new_tokens=2"
    with pytest.raises(KeyError, match="count=1"), flat_names(STAGES):
        raise KeyError("count=1")


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(TypeError, match="LWFConfig has no setting 'unlearn_evry': did you mean 'unlearn_every'"):
        config(unlearn_evry=2)


def test_what_python_has_beside_text_and_numbers_is_taken(tmp_path):
    args = config(
        output_dir=tmp_path, learning_rate=np.float32(0.5), max_steps=np.int64(3), save_strategy=SaveStrategy.NO
    )
    assert (args.output_dir, args.learning_rate, args.max_steps) == (str(tmp_path), 0.5, 3)
    assert type(args.max_steps) is int
    assert LWFConfig("a folder", 4, **QUIET).per_device_train_batch_size == 4
    with pytest.raises(ValueError, match=r"^per_device_train_batch_size=0 "):
        LWFConfig("a folder", 0, **QUIET)


def test_stages_check_their_values_too():
    with pytest.raises(ValueError, match=r"^batch_size='8' .* a whole number: write it without quotation marks"):
        ConfidenceConfig(batch_size="8")


def test_the_docstring_has_an_entry_for_each_of_our_settings():
    text = " ".join(LWFConfig.__doc__.split())
    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    for field in dataclasses.fields(LWFConfig):
        if field.name not in inherited:
            assert f" {field.name} (default {field.default!r}): {' '.join(field.metadata['help'].split())}" in text
    assert text.rstrip().endswith("ValueError: names the field, its value and what is valid.")


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
    with pytest.raises(ValueError, match=r"^unlearn_every=1.5 "):
        changed(args, unlearn_every=1.5)
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


def test_a_recipe_takes_nothing_over_from_the_one_before():
    fields = {"world": "arithmetic", "output_dir": "unused", **QUIET}
    plain = recipe_from_fields(fields, "here")
    method = {"method": "published", "learning_rate": "1e-3", "lora_r": 4, "world_seed": 2, "bf16": False}
    recipe_from_fields({**fields, **method}, "here")
    assert [vars(part) for part in recipe_from_fields(fields, "here")[::2]] == [vars(part) for part in plain[::2]]
    after = recipe_from_fields(fields, "here")[1]
    assert after.to_dict() | {"logging_dir": None} == plain[1].to_dict() | {"logging_dir": None}
