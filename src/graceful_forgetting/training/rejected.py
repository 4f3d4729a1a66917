"""Checkpoints of a run that lost to plain fine-tuning: marked, so that nothing loads or resumes them unawares.

Their weights get names that no loader looks for, and a file beside them says why. The names come back when such a
checkpoint is resumed by a run that compares again.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from graceful_forgetting.runtime.artifacts import write_text
from graceful_forgetting.unlearning.fallback import HeldOutComparison

logger = logging.getLogger(__name__)

MARK = "REJECTED.md"
SUFFIX = ".rejected"
_WEIGHTS = re.compile(r"(pytorch_|adapter_)?model.*\.(safetensors|bin)(\.index\.json)?")


def mark_rejected(output_dir: Path, held_out: HeldOutComparison) -> None:
    """Mark every checkpoint in the folder; one process alone may call this."""
    for checkpoint in _checkpoints(output_dir):
        write_text(
            checkpoint / MARK,
            "The weights of this checkpoint belong to a run that unlearned and lost to plain fine-tuning: its held-out "
            f"loss was {held_out.loss:.4f} nats per token, that of plain fine-tuning {held_out.plain_loss:.4f}. The "
            f"model that was kept is that of plain fine-tuning. To load these weights all the same, take `{SUFFIX}` "
            "off the names of the files.\n",
        )
        for file in [*_weights(checkpoint)]:
            file.rename(file.with_name(file.name + SUFFIX))


def resume_rejected(output_dir: Path, compares: bool) -> None:
    """Take the marks in the folder off again, for a run that resumes; one process alone may call this.

    Args:
        output_dir: with the checkpoint that is resumed.
        compares: whether the run compares its result with plain fine-tuning again.

    Raises:
        ValueError: it does not, and would keep what was rejected.
    """
    rejected = [checkpoint for checkpoint in _checkpoints(output_dir) if (checkpoint / MARK).is_file()]
    if not rejected:
        return
    if not compares:
        raise ValueError(
            f"resume_from_checkpoint: the checkpoints in {output_dir} are of a run that lost to plain fine-tuning, and "
            "this one would keep their weights: pass the eval_dataset and guard_fallback=True, which compare again, or "
            f"train from the start. {rejected[-1] / MARK} says more"
        )
    logger.warning(f"{output_dir} is of a run that lost to plain fine-tuning: at the end the two are compared again")
    for checkpoint in rejected:
        for file in checkpoint.rglob(f"*{SUFFIX}"):
            file.rename(file.with_name(file.name.removesuffix(SUFFIX)))
        (checkpoint / MARK).unlink()


def _checkpoints(output_dir: Path) -> list[Path]:
    return [entry for entry in sorted(output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")) if entry.is_dir()]


def _weights(checkpoint: Path) -> Iterator[Path]:
    """Files of weights, those of a further adapter in its folder too."""
    return (file for file in checkpoint.rglob("*") if file.is_file() and _WEIGHTS.fullmatch(file.name))
