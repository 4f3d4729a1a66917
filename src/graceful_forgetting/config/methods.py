"""Methods by name: each a whole set of the method's settings, which `method` puts in place of the defaults."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

MethodName = Literal["lwf", "interference", "published"]

PUBLISHED: Mapping[str, Any] = {
    "reference_fraction": 1.0,
    "posterior_estimator": "sampled",
    "posterior_fisher_at": "reference",
    "confidence_scorer": "lwf",
    "confidence_step_size": 1.0,
    "confidence_step_size_rule": "fixed",
    "forget_strategy": "highest",
    "forget_fraction": 0.25,
    "forget_threshold": None,
    "forget_trials": "none",
    "unlearn_every": 5,
    "unlearn_schedule": "periodic",
    "unlearn_objective": "gradient_ascent",
    "unlearn_loss_cap": 4.0,
    "unlearn_retain_weight": 0.0,
    "guard_margin": None,
    "guard_fallback": False,
}
"""Learning With Forgetting as its paper has it (Jiang et al., EMNLP 2025, arXiv 2505.19715), as far as the paper says:
forgetting confidence at θ*_L, the highest of it, plain gradient ascent, periodic, and nothing that watches over it."""

LWF: Mapping[str, Any] = {
    **PUBLISHED,
    "posterior_estimator": "empirical",
    "posterior_fisher_at": "base",
    "confidence_step_size_rule": "crossover",
    "unlearn_every": 2,
    "unlearn_objective": "bounded_tokens",
    "unlearn_retain_weight": 1.0,
    "guard_margin": 0.5,
    "guard_fallback": True,
}
"""Learning With Forgetting, with what its paper leaves open chosen by measurement (docs/scoring-study.md): α at the
median crossover, F from the data's labels at θ_base, a bounded objective, a retain term, the guard and the fallback."""

INTERFERENCE: Mapping[str, Any] = {
    **LWF,
    "reference_fraction": 0.1,
    "posterior_estimator": "sampled",
    "posterior_fisher_at": "reference",
    "confidence_scorer": "interference",
    "confidence_step_size_rule": "fixed",
    "forget_strategy": "relative",
    "forget_fraction": None,
    "forget_threshold": 0.3,
}
"""Forgetting by interference: unlearn what the first tenth of learning raises the loss of, by 0.3 nats per token or
more for the whole of the learning task's own loss that it removes. It computes no Fisher information, and is not
Learning With Forgetting."""

METHODS: Mapping[MethodName, Mapping[str, Any]] = {"lwf": LWF, "interference": INTERFERENCE, "published": PUBLISHED}
"""A further method is a line here and a name in `MethodName`."""
DEFAULT_METHOD: MethodName = "interference"
"""The method that the defaults of the fields amount to."""

SELECTION = ("forget_strategy", "forget_fraction", "forget_count", "forget_threshold", "forget_quotas")


def method_settings(method: str | None, given: Collection[str]) -> dict[str, Any]:
    """The settings of a method that hold beside the settings that were given; none for a method that does not exist.

    What is given beats the method, and with it what it rules out: a strategy or a number of samples replaces the
    method's selection as a whole, and another scorer its step size and its threshold, which is on the scorer's scale.

    Args:
        given: names of the settings that were given.
    """
    settings = dict(METHODS.get(method, {}))  # type: ignore[call-overload]
    beaten = set(given)
    if beaten.intersection(SELECTION):
        beaten |= set(SELECTION)
    if "confidence_scorer" in beaten:
        beaten |= {"confidence_step_size", "confidence_step_size_rule"}
        beaten |= set(SELECTION) if settings.get("forget_threshold") is not None else set()
    return {name: value for name, value in settings.items() if name not in beaten}


def as_arm(method: MethodName) -> dict[str, Any]:
    """The values that turn the settings of any run into those of a method, whatever the run selects and tries by."""
    return {**dict.fromkeys(SELECTION), "baseline": None, **METHODS[method], "method": method}
