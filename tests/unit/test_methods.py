"""The defaults, which depend on each other where they are unset, and the method as published by name."""

from pathlib import Path

import pytest
import yaml

from graceful_forgetting import LWFConfig
from graceful_forgetting.config import PUBLISHED
from graceful_forgetting.runs.recipe import parse_recipe, recipe_from_fields

RUN = {"learning_task": "gsm8k", "forgetting_tasks": ["dental"], "model_name_or_path": "any", "bf16": False}


def config(**changes) -> LWFConfig:
    return LWFConfig(output_dir="unused", bf16=False, activation_checkpointing=False, **changes)


def chosen(args: LWFConfig) -> tuple:
    selection = args.selection_config()
    return selection.strategy, selection.fraction, selection.threshold


@pytest.mark.parametrize(
    ("changes", "share", "selection"),
    [
        ({}, 0.1, ("threshold", None, 0.2)),
        ({"forget_threshold": 1.0}, 0.1, ("threshold", None, 1.0)),
        ({"forget_strategy": "threshold"}, 0.1, ("threshold", None, 0.2)),
        ({"forget_fraction": 0.5}, 0.1, ("highest", 0.5, None)),
        ({"forget_strategy": "lowest"}, 0.1, ("lowest", 0.25, None)),
        ({"forget_strategy": "gap"}, 0.1, ("gap", None, None)),
        ({"reference_fraction": 1.0}, 1.0, ("threshold", None, 0.2)),
        ({"confidence_scorer": "lwf"}, 1.0, ("highest", 0.25, None)),
        ({"confidence_scorer": "lwf", "forget_threshold": 3.0}, 1.0, ("threshold", None, 3.0)),
        ({"confidence_scorer": "lwf", "reference_fraction": 0.5}, 0.5, ("highest", 0.25, None)),
        ({"confidence_scorer": "pairwise_conflict"}, 1.0, ("threshold", None, 0.1)),
        ({"confidence_scorer": "pairwise_conflict", "forget_fraction": 0.5}, 1.0, ("highest", 0.5, None)),
        ({"baseline": "ewc"}, 1.0, ("threshold", None, 0.2)),
    ],
    ids=str,
)
def test_what_is_unset_goes_with_the_scorer(changes, share, selection):
    args = config(**changes)
    assert args.reference_share == share
    assert chosen(args) == selection


def test_a_threshold_without_a_natural_one_has_to_be_said():
    with pytest.raises(ValueError, match="strategy 'threshold' needs a threshold"):
        config(confidence_scorer="lwf", forget_strategy="threshold")


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
        for name, value in {**PUBLISHED, **changes}.items():
            assert getattr(args, name) == value, name
        assert chosen(args) == ("highest", 0.25, None)
    plain = parse_recipe(str(recipe), [])[1]
    assert plain.confidence_scorer == "interference"


def test_a_method_that_is_not_known_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="method='publish' is not valid: it must be one of published"):
        recipe_from_fields({**RUN, "output_dir": "unused", "method": "publish"}, "grid")
