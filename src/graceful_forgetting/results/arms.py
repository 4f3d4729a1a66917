"""What a reader sees an arm called, and which arms there are beside the run's own."""

from collections.abc import Mapping
from typing import Any

from graceful_forgetting.results.result import Arm

OWN: Arm = "lwf"
"""Key of the arm that the settings of the run describe, whatever method that is."""
OTHERS: Mapping[str, str] = {"interference": "interference", "published": "LWF as published"}
"""Arms of further named methods, and their titles."""


def method_title(config: Mapping[str, Any]) -> str:
    """What the settings describe: "LWF" if the samples of highest forgetting confidence are unlearned, and only then.

    Args:
        config: settings of a run by name. Without a scorer it is from a time when forgetting confidence was the only
            one.
    """
    if config.get("baseline") is not None:
        return str(config["baseline"]).replace("_", " ")
    if config.get("forget_fraction") == 1:
        return "forgetting all"
    strategy, scorer = config.get("forget_strategy"), str(config.get("confidence_scorer", "lwf"))
    # Of a scorer of one's own, its name without the module.
    scorer = scorer.rpartition(":")[2].replace("_", " ")
    if strategy == "random":
        return "forgetting at random"
    if strategy == "lowest":
        return f"forgetting the lowest {scorer}"
    return "LWF" if scorer == "lwf" else f"forgetting by {scorer}"


def arm_titles(*configs: Mapping[str, Any]) -> dict[str, str]:
    """Title by arm, in the order in which arms are shown; "method" for the own arms of runs that differ in method."""
    own = {method_title(config) for config in configs}
    title = own.pop() if len(own) == 1 else "method"
    return {"base": "base model", "plain": "plain", OWN: title, **OTHERS, "never_knew": "never knew"}


def capitalised(text: str) -> str:
    """The text with a capital first letter, and the others as they are."""
    return text[:1].upper() + text[1:]
