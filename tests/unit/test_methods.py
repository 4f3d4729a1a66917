"""The defaults, which depend on each other where they are unset, and the methods by name."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from graceful_forgetting import LWFConfig
from graceful_forgetting.config import DEFAULT_METHOD, METHODS, MethodName, as_arm, changed
from graceful_forgetting.runs.recipe import parse_recipe, recipe_from_fields
from graceful_forgetting.training.model_card import card_section
from graceful_forgetting.unlearning.updates import unlearning_summary

RUN = {"learning_task": "gsm8k", "forgetting_tasks": ["dental"], "model_name_or_path": "any", "bf16": False}


def config(**changes) -> LWFConfig:
    return LWFConfig(output_dir="unused", bf16=False, activation_checkpointing=False, **changes)


def chosen(args: LWFConfig) -> tuple:
    selection = args.selection_config()
    return selection.strategy, selection.fraction, selection.threshold


@pytest.mark.parametrize(
    ("changes", "share", "selection"),
    [
        ({}, 0.1, ("relative", None, 0.3)),
        ({"forget_threshold": 1.0}, 0.1, ("threshold", None, 1.0)),
        ({"forget_strategy": "threshold"}, 0.1, ("threshold", None, 0.2)),
        ({"forget_strategy": "relative"}, 0.1, ("relative", None, 0.3)),
        ({"forget_strategy": "relative", "forget_threshold": 1.0}, 0.1, ("relative", None, 1.0)),
        ({"forget_fraction": 0.5}, 0.1, ("highest", 0.5, None)),
        ({"forget_strategy": "lowest"}, 0.1, ("lowest", 0.25, None)),
        ({"forget_strategy": "gap"}, 0.1, ("gap", None, None)),
        ({"reference_fraction": 1.0}, 1.0, ("relative", None, 0.3)),
        ({"confidence_scorer": "lwf"}, 1.0, ("highest", 0.25, None)),
        ({"confidence_scorer": "lwf", "forget_threshold": 3.0}, 1.0, ("threshold", None, 3.0)),
        ({"confidence_scorer": "lwf", "reference_fraction": 0.5}, 0.5, ("highest", 0.25, None)),
        ({"confidence_scorer": "pairwise_conflict"}, 1.0, ("threshold", None, 0.1)),
        ({"confidence_scorer": "pairwise_conflict", "forget_fraction": 0.5}, 1.0, ("highest", 0.5, None)),
        ({"confidence_scorer": "token_interference"}, 0.1, ("relative", None, 0.25)),
        ({"confidence_scorer": "token_interference", "forget_strategy": "threshold"}, 0.1, ("threshold", None, 0.13)),
        ({"baseline": "ewc"}, 1.0, ("relative", None, 0.3)),
    ],
    ids=str,
)
def test_what_is_unset_goes_with_the_scorer(changes, share, selection):
    args = config(**changes)
    assert args.reference_share == share
    assert chosen(args) == selection


@pytest.mark.parametrize(
    ("changes", "batch", "passes"),
    [
        ({}, 4, 1),
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}, 1, 8),
        ({"per_device_train_batch_size": 5, "gradient_accumulation_steps": 2}, 2, 2),
        ({"unlearn_retain_weight": 0.0, "gradient_accumulation_steps": 4}, 8, 4),
        ({"method": "published"}, 8, 1),
        ({"per_device_unlearn_batch_size": 3, "unlearn_gradient_accumulation_steps": 1}, 3, 1),
        ({"per_device_unlearn_batch_size": 3, "gradient_accumulation_steps": 2}, 3, 2),
    ],
    ids=str,
)
def test_an_unlearning_update_is_as_large_as_a_learning_update(changes, batch, passes):
    args = config(**changes)
    assert (args.unlearn_batch_size, args.unlearn_passes) == (batch, passes)
    card = card_section("SFT", args, 0, None, [], unlearning_summary(None, None))
    assert re.search(rf"per\\?_device\\?_unlearn\\?_batch\\?_size\W+{batch}\b", card), "the card has what was used"


def test_a_threshold_without_a_natural_one_has_to_be_said():
    with pytest.raises(ValueError, match="strategy 'threshold' or 'relative' needs a threshold"):
        config(confidence_scorer="lwf", forget_strategy="threshold")


def test_what_is_held_against_the_fall_of_a_loss_must_be_a_loss():
    with pytest.raises(ValueError, match="forget_strategy='relative' with confidence_scorer='pairwise_conflict'"):
        config(confidence_scorer="pairwise_conflict", forget_strategy="relative", forget_threshold=0.1)


def test_published_in_python_a_recipe_a_flag_and_a_grid(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**RUN, "output_dir": str(tmp_path / "run")}))
    named = tmp_path / "named.yaml"
    named.write_text(recipe.read_text() + "method: published\nunlearn_every: 7\n")
    found = [
        (LWFConfig(method="published", output_dir="unused", bf16=False, activation_checkpointing=False), {}),
        (parse_recipe(str(recipe), ["--method", "published"])[1], {}),
        (parse_recipe(str(recipe), ["--method=published", "--guard_margin", "0.5"])[1], {"guard_margin": 0.5}),
        (parse_recipe(str(named), [])[1], {"unlearn_every": 7}),
        (parse_recipe(str(named), ["--unlearn_every", "9"])[1], {"unlearn_every": 9}),
        (recipe_from_fields({**RUN, "output_dir": "unused", "method": "published"}, "grid")[1], {}),
    ]
    for args, changes in found:
        for name, value in {**METHODS["published"], **changes}.items():
            assert getattr(args, name) == value, name
        assert chosen(args) == ("highest", 0.25, None)
    plain = parse_recipe(str(recipe), [])[1]
    assert plain.confidence_scorer == "interference"


def test_a_method_that_is_not_known_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="method='publish' is not valid: it must be one of lwf, interference"):
        recipe_from_fields({**RUN, "output_dir": "unused", "method": "publish"}, "grid")


def test_every_method_sets_the_same_settings():
    assert set(METHODS) == set(get_args(MethodName))
    assert len({frozenset(settings) for settings in METHODS.values()}) == 1


def resolved(args: LWFConfig) -> dict:
    """What the method comes to: the settings of `METHODS`, with those that are unset as they are understood."""
    names = set(METHODS["published"])
    selection = {name for name in names if name.startswith("forget_") and name != "forget_trials"}
    found = {name: getattr(args, name) for name in names - selection - {"reference_fraction"}}
    return {**found, "share": args.reference_share, "selection": args.selection_config()}


def test_the_defaults_are_the_default_method():
    assert resolved(config()) == resolved(config(method=DEFAULT_METHOD))


@pytest.mark.parametrize(
    ("method", "changes", "selection"),
    [
        ("interference", {}, ("relative", None, 0.3)),
        ("interference", {"forget_threshold": 1.0}, ("threshold", None, 1.0)),
        ("interference", {"forget_fraction": 0.5}, ("highest", 0.5, None)),
        ("interference", {"forget_count": 7}, ("highest", None, None)),
        ("interference", {"forget_quotas": {"old": 3}}, ("highest", None, None)),
        ("interference", {"forget_strategy": "random"}, ("random", 0.25, None)),
        ("interference", {"forget_strategy": "gap"}, ("gap", None, None)),
        ("interference", {"confidence_scorer": "lwf"}, ("highest", 0.25, None)),
        ("interference", {"confidence_scorer": "pairwise_conflict"}, ("threshold", None, 0.1)),
        ("lwf", {}, ("highest", 0.25, None)),
        ("lwf", {"forget_threshold": 1.0}, ("threshold", None, 1.0)),
        ("lwf", {"forget_count": 7}, ("highest", None, None)),
        ("lwf", {"forget_strategy": "weighted"}, ("weighted", None, None)),
        ("lwf", {"confidence_scorer": "interference"}, ("highest", 0.25, None)),
        ("published", {"forget_fraction": 0.1}, ("highest", 0.1, None)),
    ],
    ids=str,
)
def test_how_many_a_user_says_takes_the_place_of_what_the_method_says(tmp_path: Path, method, changes, selection):
    in_file = tmp_path / "recipe.yaml"
    fields = {**RUN, "output_dir": "unused", "method": method, "activation_checkpointing": False, **changes}
    in_file.write_text(yaml.safe_dump(fields))
    flags = [part for name, value in changes.items() for part in (f"--{name}", str(value).replace("'", '"'))]
    bare = tmp_path / "bare.yaml"
    bare.write_text(yaml.safe_dump({name: value for name, value in fields.items() if name not in changes}))
    found = [config(method=method, **changes), parse_recipe(str(in_file), [])[1], parse_recipe(str(bare), flags)[1]]
    found.append(recipe_from_fields(fields, "grid")[1])
    for args in found:
        assert chosen(args) == selection
        for name, value in changes.items():
            assert getattr(args, name) == value or name == "forget_quotas"
        if "confidence_scorer" in changes:
            assert args.confidence_step_size_rule == "fixed"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("changes", [{"forget_count": 7}, {"forget_quotas": {"old": 3}}, {"baseline": "ewc"}], ids=str)
def test_settings_of_any_run_become_those_of_a_method(method, changes):
    arm = changed(config(unlearn_learning_rate=2e-5, **changes), **as_arm(method))
    assert resolved(arm) == resolved(config(method=method))
    assert (arm.unlearn_learning_rate, arm.method) == (2e-5, method)
