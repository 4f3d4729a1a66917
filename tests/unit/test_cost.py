"""The cost of the method over plain fine-tuning, from stage times."""

import pytest

from graceful_forgetting.experiment.cost import cost_text, method_cost
from graceful_forgetting.experiment.provenance import collect_provenance
from graceful_forgetting.experiment.result import RunResult, StageResult, Summary

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


def result_of(seconds: dict[str, float]) -> RunResult:
    provenance = collect_provenance(
        model_fingerprint="m", data_fingerprints={}, posterior_fingerprint=None, seeds=[0, 1]
    )
    stages = [StageResult(name, "run", value, None, None, "key", {}) for name, value in seconds.items()]
    return RunResult("name", "2026-01-01T00:00:00+00:00", {}, provenance, stages, [], None, Summary({}))


def test_cost_is_of_the_methods_own_stages():
    cost = method_cost(result_of(SECONDS))
    assert cost is not None
    assert cost.with_reference_at_hand == pytest.approx((1 + 2 + 3 + 0 + 12) / 10)
    assert cost.per_seed == pytest.approx((6 / 2 + 12) / 10)


def test_text_names_stages_and_both_sums():
    text = cost_text(result_of(SECONDS))
    for part in ("10 s a run", "self-knowledge", "0.10 x", "1.20 x", "1.80 x where", "2.80 x where", "1.50 x a seed"):
        assert part in text
    assert "never" not in text


def test_one_seed_shares_nothing():
    single = {name: value for name, value in SECONDS.items() if not name.endswith("seed-1")}
    assert "a seed where" not in cost_text(result_of(single))


def test_without_both_arms_nothing_is_said():
    assert cost_text(result_of({"plain/seed-0": 3.0})) == ""
