"""Which settings each stage depends on: what its cache key is made of."""

from dataclasses import asdict, fields
from typing import Any

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.runs.models import ModelArguments
from graceful_forgetting.runtime.secrets import public_settings

# Settings of the method's own stages, by prefix; everything else in LWFConfig is a setting of learning.
_STAGE_PREFIXES = ("elicitation_", "reference_", "posterior_", "confidence_", "forget_")
UNLEARNING_PREFIXES = ("unlearn_", "guard_", "per_device_unlearn_", "baseline")
# They change where and how a run reports, never what it computes.
WITHOUT_EFFECT = {
    "output_dir",
    "run_name",
    "report_to",
    "disable_tqdm",
    "logging_first_step",
    "log_level",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "dataset_num_proc",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "hub_token",
    "seed",
    # A name for other settings, each of which counts on its own.
    "method",
}


def settings_of(lwf: LWFConfig, *prefixes: str) -> dict[str, Any]:
    """The fields of `LWFConfig` with one of the prefixes."""
    return public_settings({f.name: getattr(lwf, f.name) for f in fields(lwf) if f.name.startswith(prefixes)})


def learning_settings(lwf: LWFConfig, model: ModelArguments) -> dict[str, Any]:
    """What plain fine-tuning depends on: all that is neither the method's own nor without effect."""
    own = _STAGE_PREFIXES + UNLEARNING_PREFIXES
    settings = {
        f.name: getattr(lwf, f.name) for f in fields(lwf) if not f.name.startswith(own) and f.name not in WITHOUT_EFFECT
    }
    # A batch is as large as all processes' shares together.
    return public_settings({**settings, "model": asdict(model), "world_size": lwf.world_size})
