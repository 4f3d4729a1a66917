"""The baseline of a run, made from what it needs, before training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.baselines import BASELINES, Baseline, BaselineContext, Need
from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data.learning_rows import single_examples
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.posterior.reference import reference_args, train_reference
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.training.preparation import Preparation

BASELINE_FILE = "baseline.json"
BASE_WEIGHTS = "base_weights"


def check_base_weights(args: LWFConfig, weights: str, checkpoint: Path | None) -> None:
    """Refuse to resume with another base model: a baseline measures θ_base again.

    Args:
        args: settings of the run.
        weights: fingerprint of the model's weights.
        checkpoint: that is resumed; none at a start.

    Raises:
        ValueError: names the checkpoint and the remedy.
    """
    if checkpoint is None:
        return
    file = checkpoint / BASELINE_FILE
    if not file.is_file() or read_json(file)[BASE_WEIGHTS] != weights:
        raise ValueError(
            f"resume_from_checkpoint={str(checkpoint)!r} with baseline={args.baseline!r}: the checkpoint was "
            "written by a run from another base model, or without a baseline. Pass the model that the interrupted "
            "run started from, and the same settings"
        )


def make_baseline(
    model: PreTrainedModel | PeftModel,
    args: LWFConfig,
    train_dataset: Dataset | IterableDataset,
    processing_class: PreTrainedTokenizerBase,
    reference_arguments: Mapping[str, Any],
    preparation: Preparation | None,
    learning_posterior: Callable[[], LearningPosterior],
) -> Baseline:
    """The baseline that `args` name, with what it declares as needed.

    Args:
        model: at θ_base.
        args, train_dataset, processing_class: of the trainer.
        reference_arguments: of the trainers of other runs, beside the settings.
        preparation: with the self-knowledge, where it is needed.
        learning_posterior: gives the posterior, where it is needed.
    """
    assert args.baseline is not None
    kind = BASELINES[args.baseline]
    known = preparation if Need.SELF_KNOWLEDGE in kind.needs else None

    def fine_tune(rows: Dataset, updates: int) -> None:
        own = reference_args(args, Path(args.output_dir) / "work" / "baseline")
        own.max_steps = updates
        train_reference(model, own, rows, processing_class, **reference_arguments)

    return kind(
        BaselineContext(
            model=model,
            args=args,
            learning=single_examples(train_dataset),
            self_knowledge=None if known is None else known.scored,
            selected=None if known is None else known.selected,
            posterior=learning_posterior() if Need.POSTERIOR in kind.needs else None,
            fine_tune=fine_tune,
        )
    )
