"""One training run as a stage: resumable on its way, complete or absent at its end."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from graceful_forgetting.config import LWFConfig, changed
from graceful_forgetting.posterior.reference import PlainTrainer, name_stage
from graceful_forgetting.runtime.artifacts import read_json, write_json
from graceful_forgetting.runtime.distributed import from_main_process
from graceful_forgetting.runtime.progress import progress_allowed
from graceful_forgetting.training.preparation import Preparation
from graceful_forgetting.training.trainer import LWFTrainer
from graceful_forgetting.unlearning.updates import unlearning_summary

LOG_FILE = "training_log.json"
UNLEARNING_FILE = "unlearning.json"


def arm_args(args: LWFConfig, work: Path, seed: int) -> LWFConfig:
    """The settings of one run: those of the recipe with a folder and seed of its own, for rows that are tokenised."""
    return changed(
        args,
        output_dir=str(work),
        seed=seed,
        model_init_kwargs=None,
        # The rows have labels that say what counts, and the tokenizer has its template.
        assistant_only_loss=False,
        chat_template_path=None,
        disable_tqdm=not (sys.stderr.isatty() and progress_allowed()),
        # Without a device to copy to, pinning does nothing but warn.
        dataloader_pin_memory=args.dataloader_pin_memory and args.device.type != "cpu",
    )


def run_training(
    folder: Path,
    model: Any,
    args: LWFConfig,
    train_dataset: Dataset,
    eval_dataset: Dataset | None,
    processing_class: PreTrainedTokenizerBase,
    *,
    plain: bool,
    preparation: Preparation | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    keep_model: bool = True,
    measure_held_out: bool = False,
) -> dict[str, Any]:
    """Train `model` in place; write it, its tokenizer, `training_log.json` and `unlearning.json` into `folder`.

    `plain`: with TRL's trainer; else with `LWFTrainer`, on what `preparation` holds of the stages before training.
    Checkpoints are in `args.output_dir`; the newest complete one is resumed. `callbacks` join those of the Trainer;
    without `keep_model` only the two JSON files are written.

    Returns:
        counts to record with the stage; with `measure_held_out`, which is not for plain runs, also `held_out_loss`,
        that on `eval_dataset` at the end in nats per token.
    """
    trainer: PlainTrainer
    common: dict[str, Any] = {
        "train_dataset": train_dataset,
        "eval_dataset": eval_dataset if args.eval_strategy != "no" or args.guard_fallback or measure_held_out else None,
        "processing_class": processing_class,
    }
    if plain:
        trainer = PlainTrainer(model, args, **common)
    else:
        trainer = LWFTrainer(model, args, preparation=preparation, **common)
    for callback in callbacks:
        trainer.add_callback(callback)
    name_stage(trainer, "/".join(Path(args.output_dir).parts[-2:]))
    checkpoint = from_main_process(last_complete_checkpoint(Path(args.output_dir)) if args.process_index == 0 else None)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if keep_model:
        trainer.save_model(str(folder))
    write_json(folder / LOG_FILE, trainer.state.log_history)
    unlearning = trainer.unlearning_summary() if isinstance(trainer, LWFTrainer) else unlearning_summary(None, None)
    write_json(folder / UNLEARNING_FILE, unlearning)
    detail: dict[str, Any] = {"learning_updates": trainer.state.global_step}
    if measure_held_out:
        assert isinstance(trainer, LWFTrainer)
        detail["held_out_loss"] = trainer.held_out_loss()
    if not plain:
        detail["unlearning_updates"] = unlearning["updates"]
    if checkpoint is not None:
        detail["resumed_from"] = checkpoint.name
    return detail


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose writing was finished; newer, unfinished ones are removed.

    The Trainer writes `trainer_state.json` last: a checkpoint without it, or with a part of it, was interrupted.
    """
    checkpoints = sorted(
        (entry for entry in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if entry.is_dir()),
        key=lambda entry: int(entry.name.rsplit("-", 1)[1]),
        reverse=True,
    )
    for checkpoint in checkpoints:
        if _is_complete(checkpoint / "trainer_state.json"):
            return checkpoint
        shutil.rmtree(checkpoint)
    return None


def _is_complete(state: Path) -> bool:
    try:
        return isinstance(read_json(state), dict)
    except (FileNotFoundError, ValueError):
        return False
