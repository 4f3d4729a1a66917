"""Settings of tests that are about the formula of the paper: its score at the end of learning, ascent with a bound."""

from typing import Any

FORMULA: dict[str, Any] = {
    "reference_fraction": 1.0,
    "confidence_scorer": "lwf",
    "unlearn_every": 5,
    "unlearn_objective": "bounded_ascent",
    "unlearn_loss_cap": 8.0,
    "unlearn_retain_weight": 0.0,
}
