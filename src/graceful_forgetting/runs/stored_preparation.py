"""What the stages before training have made, read again for a trainer."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, load_from_disk

from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.training.stages import Stage
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.training.preparation import Preparation


def stored_preparation(stages: Mapping[str, Stage], plain: Any | None = None) -> Preparation | None:
    """The preparation that lies in the folders of `stages`; none where there are none.

    Args:
        stages: of `scores`, `selection` and `posterior` those that the run reads, by name.
        plain: the model after plain fine-tuning, whose trainable weights `guard_fallback` compares with.
    """
    if not stages:
        return None
    nothing = Dataset.from_dict({})
    posterior = stages.get("posterior")
    weights = None
    if plain is not None:
        weights = {name: weight.detach() for name, weight in plain.named_parameters() if weight.requires_grad}
    return Preparation(
        scored=load_from_disk(str(stages["scores"].path / "rows")) if "scores" in stages else nothing,
        selected=load_from_disk(str(stages["selection"].path / "rows")) if "selection" in stages else nothing,
        audit=read_json(stages["selection"].path / "selection.json") if "selection" in stages else {},
        posterior=None if posterior is None else LearningPosterior.from_pretrained(posterior.path / "posterior"),
        plain=weights,
    )
