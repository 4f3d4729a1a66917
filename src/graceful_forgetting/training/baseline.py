"""The baseline of a run, made from what it needs, before training."""

import shutil
from collections.abc import Mapping
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
from graceful_forgetting.training.preparation import (
    POSTERIOR_FOLDER,
    Preparation,
    preparation_folder,
    prepare_posterior,
)

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
    resumed: bool,
) -> Baseline:
    """The baseline that `args` name, with what it declares as needed.

    Args:
        model: at θ_base.
        args, train_dataset, processing_class, reference_arguments: as in `prepare_unlearning`.
        preparation: the stages before unlearning, with the self-knowledge where it is needed; the posterior that it
            lacks is read from the output folder when the run is resumed, else estimated, after a reference run.
        resumed: whether the run goes on from a checkpoint.
    """
    assert args.baseline is not None
    kind = BASELINES[args.baseline]
    known = preparation if Need.SELF_KNOWLEDGE in kind.needs else None

    def learning_posterior() -> LearningPosterior:
        if preparation is not None and preparation.posterior is not None:
            return preparation.posterior
        folder = preparation_folder(args) / POSTERIOR_FOLDER
        if resumed:
            return LearningPosterior.from_pretrained(folder, model=model)
        posterior, _ = prepare_posterior(model, args, train_dataset, processing_class, reference_arguments)
        if args.process_index == 0:
            posterior.save_pretrained(folder)
            shutil.rmtree(Path(args.output_dir) / "work" / "posterior", ignore_errors=True)
        return posterior

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
