"""The cost of the method over plain fine-tuning, from stage times."""

import pytest

from graceful_forgetting.results.cost import cost_text, method_cost
from graceful_forgetting.results.result import StageResult

SECONDS = {
    "self_knowledge": 1.0,
    "plain/seed-0": 9.0,
    "posterior": 2.0,
    "scores": 3.0,
    "selection": 0.0,
    "plain/seed-1": 11.0,
    "lwf/seed-0": 13.0,
    "lwf/seed-1": 11.0,
    "never_knew/seed-0": 50.0,
    "evaluation/base": 70.0,
}


def stages_of(seconds: dict[str, float]) -> list[StageResult]:
    return [StageResult(name, "run", value, None, None, "key", {}) for name, value in seconds.items()]


def test_cost_is_of_the_methods_own_stages():
    cost = method_cost(stages_of(SECONDS))
    assert cost is not None
    assert cost.with_reference_at_hand == pytest.approx((1 + 2 + 3 + 0 + 12) / 10)
    assert cost.per_seed == pytest.approx((6 / 2 + 12) / 10)


def test_a_reference_run_of_its_own_is_no_plain_run():
    cost = method_cost(stages_of(SECONDS | {"reference/seed-0": 2.5}))
    assert cost is not None
    assert cost.with_reference_at_hand == pytest.approx((1 + 2 + 3 + 0 + 12) / 10)
    assert cost.with_reference == pytest.approx((1 + 2 + 3 + 0 + 2.5 + 12) / 10)
    assert cost.per_seed == pytest.approx((6 / 2 + 12) / 10)
    text = cost_text(stages_of(SECONDS | {"reference/seed-0": 2.5}), "LWF")
    assert "1.80 x where the reference run is at hand, 2.05 x where it is not" in text


def test_text_names_stages_and_both_sums():
    text = cost_text(stages_of(SECONDS), "LWF")
    assert text.startswith("cost of LWF over plain fine-tuning")
    for part in ("10 s a run", "self-knowledge", "0.10 x", "1.20 x", "1.80 x where", "2.80 x where", "1.50 x a seed"):
        assert part in text
    assert "never" not in text


def test_one_seed_shares_nothing():
    single = {name: value for name, value in SECONDS.items() if not name.endswith("seed-1")}
    assert "a seed where" not in cost_text(stages_of(single), "LWF")


def test_without_both_arms_nothing_is_said():
    assert cost_text(stages_of({"plain/seed-0": 3.0}), "LWF") == ""
