"""Methods by name: the settings that `method` starts from, in place of the defaults."""

from collections.abc import Mapping
from typing import Any, Literal

MethodName = Literal["published"]

PUBLISHED: Mapping[str, Any] = {
    "reference_fraction": 1.0,
    "confidence_scorer": "lwf",
    "forget_strategy": "highest",
    "unlearn_every": 5,
    "unlearn_schedule": "periodic",
    "unlearn_objective": "gradient_ascent",
    "unlearn_retain_weight": 0.0,
    "forget_trials": "none",
    "guard_margin": None,
    "guard_fallback": False,
}
"""Learning With Forgetting as its paper has it (Jiang et al., EMNLP 2025, arXiv 2505.19715), as far as the paper says:
forgetting confidence at θ*_L, the highest of it, plain gradient ascent, periodic, and nothing that watches over it.

What is unpublished (fraction, rates, α) is as the defaults are.
"""

METHODS: Mapping[str, Mapping[str, Any]] = {"published": PUBLISHED}
"""A further method is a line here and a name in `MethodName`."""
