"""One training run as a stage: resumable on its way, complete or absent at its end."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from graceful_forgetting.baselines import Need
from graceful_forgetting.config import LWFConfig, changed
from graceful_forgetting.posterior.reference import PlainTrainer, name_stage
from graceful_forgetting.results.result import LineSearchResult
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.checkpoints import newest_checkpoint
from graceful_forgetting.runtime.distributed import on_main_process, sum_over_processes
from graceful_forgetting.runtime.progress import progress_allowed
from graceful_forgetting.runtime.termination import Terminated, arrived, waits_for_update
from graceful_forgetting.training.checks import baseline_needs
from graceful_forgetting.training.preparation import Preparation
from graceful_forgetting.training.trainer import LWFTrainer
from graceful_forgetting.unlearning.updates import unlearning_summary

LOG_FILE = "training_log.json"
UNLEARNING_FILE = "unlearning.json"
# In that file, where a baseline has made one.
LINE_SEARCH = "line_search"


def line_search_of(unlearning: Mapping[str, Any]) -> LineSearchResult | None:
    """The line search that a baseline has made. `unlearning`: content of `UNLEARNING_FILE`."""
    found = unlearning.get(LINE_SEARCH)
    return None if found is None else LineSearchResult(**found)


class SavedAtTheEnd(TrainerCallback):
    """After SIGTERM: a checkpoint at the end of the update, whatever `save_strategy` says, and then the end.

    The Trainer's own (`enable_jit_checkpoint`) saves in the middle of an update, whose gradients are lost.
    """

    _ends = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, state, kwargs
        # All processes of a launch save together, whichever of them heard the signal before this update ended.
        self._ends = bool(sum_over_processes(torch.tensor(float(arrived()))))
        control.should_save = control.should_save or self._ends

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        del args, state, control, kwargs
        if self._ends:
            raise Terminated


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
    Checkpoints are in `args.output_dir`; the newest that is intact is resumed. `callbacks` join those of the Trainer;
    without `keep_model` only the two JSON files are written.

    Returns:
        counts to record with the stage; with `measure_held_out`, which is not for plain runs, also `held_out_loss`,
        that on `eval_dataset` at the end in nats per token.
    """
    trainer: PlainTrainer
    judged = args.guard_fallback or measure_held_out or (not plain and Need.HELD_OUT in baseline_needs(args))
    common: dict[str, Any] = {
        "train_dataset": train_dataset,
        "eval_dataset": eval_dataset if args.eval_strategy != "no" or judged else None,
        "processing_class": processing_class,
    }
    if plain:
        trainer = PlainTrainer(model, args, **common)
    else:
        trainer = LWFTrainer(model, args, preparation=preparation, **common)
    for callback in (*callbacks, SavedAtTheEnd()):
        trainer.add_callback(callback)
    name_stage(trainer, "/".join(Path(args.output_dir).parts[-2:]))
    checkpoint = on_main_process(partial(newest_checkpoint, args.output_dir))
    with waits_for_update():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if keep_model:
        trainer.save_model(str(folder))
    write_json(folder / LOG_FILE, trainer.state.log_history)
    unlearning = trainer.unlearning_summary() if isinstance(trainer, LWFTrainer) else unlearning_summary(None, None)
    if isinstance(trainer, LWFTrainer) and trainer.line_search is not None:
        unlearning[LINE_SEARCH] = asdict(trainer.line_search)
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
