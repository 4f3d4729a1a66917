"""Completions on disk, under a name made from all that decides them."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk
from peft import PeftModel
from transformers import PreTrainedModel

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.generation import Completion
from graceful_forgetting.runtime.artifacts import atomic_directory, read_json, write_json
from graceful_forgetting.runtime.fingerprint import fingerprint_json, fingerprint_model
from graceful_forgetting.runtime.version import __version__

logger = logging.getLogger(__name__)

_FORMAT = 2


def completions_key(
    model: PreTrainedModel | PeftModel,
    prompt_ids: Sequence[Sequence[int]],
    eos_token_ids: Sequence[int],
    config: ElicitationConfig,
) -> str:
    """Hash of all that decides the completions.

    Left out is what changes them by rounding only: batch and shard size, and the address of a server.
    """
    settings: dict[str, Any] = {
        "backend": config.backend,
        "server_model": config.server_model,
        "max_new_tokens": config.max_new_tokens,
        "num_samples_per_prompt": config.num_samples_per_prompt,
        "do_sample": config.do_sample,
    }
    if config.do_sample:
        settings |= {"temperature": config.temperature, "top_p": config.top_p, "seed": config.seed}
        if config.backend == "continuous_batching":
            # Its one random stream is dealt out by the schedule.
            settings |= {"batch_size": config.batch_size, "shard_size": config.shard_size}
    return fingerprint_json(
        {
            "format": _FORMAT,
            "version": __version__,
            "model": fingerprint_model(model),
            "prompts": [list(ids) for ids in prompt_ids],
            "eos_token_ids": list(eos_token_ids),
            "settings": settings,
        }
    )


def write_completions(entry: Path, completions: Sequence[Completion], seconds: float) -> None:
    """Write completions, and the time that they took, to the folder `entry`, all or nothing."""
    rows = [asdict(completion) for completion in completions]
    with atomic_directory(entry) as partial:
        Dataset.from_list(rows).save_to_disk(str(partial / "completions"))
        write_json(partial / "header.json", {"format": _FORMAT, "seconds": seconds, "rows": fingerprint_json(rows)})


def read_completions(entry: Path, count: int) -> tuple[list[Completion], float] | None:
    """`count` completions and the time they took; None where there are none or `entry` is damaged (logged)."""
    if not entry.exists():
        return None
    try:
        header = read_json(entry / "header.json")
        rows = load_from_disk(str(entry / "completions"), keep_in_memory=True).to_list()
        if len(rows) != count or fingerprint_json(rows) != header["rows"]:
            raise ValueError("its content is not what was written")
        seconds = float(header["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("The cached completions in %s are damaged (%s): generating them again.", entry, error)
        return None
    return [Completion(**row) for row in rows], seconds
