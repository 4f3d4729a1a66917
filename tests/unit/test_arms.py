"""What an arm is called, and that only the paper's method is called LWF."""

from typing import get_args

import pytest

from graceful_forgetting import LWFConfig
from graceful_forgetting.config import METHODS
from graceful_forgetting.results.arms import OTHERS, OWN, arm_titles, capitalised, method_title
from graceful_forgetting.results.result import Arm
from graceful_forgetting.runs.arguments import other_methods


@pytest.mark.parametrize(
    ("config", "title"),
    [
        ({"confidence_scorer": "lwf"}, "LWF"),
        ({"confidence_scorer": "lwf", "forget_strategy": "highest", "baseline": None}, "LWF"),
        ({}, "LWF"),
        ({"confidence_scorer": "interference"}, "forgetting by interference"),
        ({"confidence_scorer": "gradient_conflict"}, "forgetting by gradient conflict"),
        ({"confidence_scorer": "lwf", "forget_strategy": "random"}, "forgetting at random"),
        ({"confidence_scorer": "lwf", "forget_strategy": "lowest"}, "forgetting the lowest lwf"),
        ({"confidence_scorer": "lwf", "baseline": "selective_amnesia"}, "selective amnesia"),
    ],
    ids=str,
)
def test_only_unlearning_by_forgetting_confidence_is_called_lwf(config, title):
    assert method_title(config) == title


@pytest.mark.parametrize(
    ("method", "title"), [("lwf", "LWF"), ("published", "LWF"), ("interference", "forgetting by interference")]
)
def test_titles_of_the_named_methods(method, title):
    assert method_title(METHODS[method]) == title


def test_every_arm_has_a_title_and_a_place():
    titles = arm_titles({})
    assert list(titles) == list(get_args(Arm))
    assert set(OTHERS) == set(METHODS) - {OWN}
    assert titles[OWN] == "LWF"


def test_runs_that_differ_in_method_share_no_title():
    lwf, other = {"confidence_scorer": "lwf"}, {"confidence_scorer": "interference"}
    assert arm_titles(lwf, lwf)[OWN] == "LWF"
    assert arm_titles(lwf, other)[OWN] == "method"


def test_capital_first_letter_only():
    assert [capitalised(text) for text in ("forgetting by LWF", "LWF", "")] == ["Forgetting by LWF", "LWF", ""]


def test_methods_beside_the_runs_own():
    def own(method=None):
        return LWFConfig(output_dir="unused", bf16=False, activation_checkpointing=False, method=method)

    assert other_methods(["interference", "published", "interference"], own("lwf")) == ["interference", "published"]
    assert other_methods(["interference", "published"], own("interference")) == ["published"]
    assert other_methods(["lwf"], own("lwf")) == []
    with pytest.raises(ValueError, match=r"compare_with 'lwf': in the result that name .* Set method='lwf'"):
        other_methods(["lwf"], own())
    with pytest.raises(ValueError, match="compare_with 'publish' is not valid: it must be one of interference"):
        other_methods(["publish"], own())
