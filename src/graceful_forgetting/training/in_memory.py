"""A trainer's data sets as the rows of the method, and its one module as the source of models."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset, IterableDataset
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import fingerprint_tokenizer
from graceful_forgetting.data.learning_rows import single_examples
from graceful_forgetting.gradients.shared_prompts import reads_prompts_once
from graceful_forgetting.posterior.reference import (
    reference_args,
    restored_weights,
    stopping_after,
    train_reference,
)
from graceful_forgetting.results.arms import OWN
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.distributed import process_count
from graceful_forgetting.training.measured_speed import measured_speed
from graceful_forgetting.training.method import Method
from graceful_forgetting.training.preparation import LOG_FILE, TASK_COLUMN, Preparation
from graceful_forgetting.training.price import options_each, pool_lengths, price_of, prompts_of, worth_measuring
from graceful_forgetting.training.stages import RunDirectory, Stage, StagesAhead
from graceful_forgetting.training.trials import most_candidates
from graceful_forgetting.training.work import Amounts, Lengths, Work, looked_at, stage_work


@dataclass
class TrainerRows:
    """`MethodRows` of a trainer.

    Attributes:
        train_dataset: prepared learning rows, packed or not; of a stream, the first `stream_rows` are read.
        forgetting: see `combine_forget_datasets`; none: nothing is unlearned.
        tokenizer: with a pad token.
        what_counts: keywords of `tokenize_dataset`.
        stream_rows: `posterior_num_samples`.
    """

    train_dataset: Dataset | IterableDataset
    forgetting: Dataset | None
    tokenizer: PreTrainedTokenizerBase
    what_counts: Mapping[str, Any]
    stream_rows: int | None

    @cached_property
    def learning(self) -> Dataset:
        """Learning examples, one a row."""
        return single_examples(self.train_dataset, self.stream_rows)

    def key(self, of: Literal["model", "tokenizer", "learning", "forgetting"]) -> Any:
        """Of the tokenizer its content. Else none: what a script trains may differ in what no hash sees, so that its
        finished stages serve it alone."""
        return fingerprint_tokenizer(self.tokenizer) if of == "tokenizer" else None


@dataclass
class ModelInMemory:
    """`MethodModels` of a trainer: its own module, which comes back at θ_base from every use.

    Attributes:
        model: at θ_base, on the device of the run.
        args: settings of the run.
        rows: what is learned.
        directory: where stages are kept.
        arguments: of the reference run's trainer beside the settings: `data_collator` and the like.
        trial_loss: makes a trial run in a folder from θ_base; the held-out loss at its end.
    """

    model: PreTrainedModel | PeftModel
    args: LWFConfig
    rows: TrainerRows
    directory: RunDirectory
    arguments: Mapping[str, Any]
    trial_loss: Callable[[Path, Preparation], float]
    _plain: dict[str, Stage] = field(default_factory=dict)

    @contextmanager
    def base(self) -> Iterator[Any]:
        """The module as it is: at θ_base."""
        yield self.model

    answering = base

    @contextmanager
    def trained(self, stage: Stage) -> Iterator[Any]:
        """The module with the weights in the folder of `stage`, for as long as the block lasts."""
        with restored_weights(self.model):
            load_trained_weights(self.model, stage.path)
            yield self.model

    def plain(self, share: float) -> Stage:
        """Plain fine-tuning; a whole one is what the result is compared with."""
        name = "plain" if share == 1 else "reference"
        if name not in self._plain:
            self._plain[name] = self.directory.stage(
                name, {"share": share, "tokenizer": self.rows.key("tokenizer")}, [], self._plain_run(name, share)
            )
        return self._plain[name]

    def _plain_run(self, name: str, share: float) -> Callable[[Path, str], dict[str, Any]]:
        def build(folder: Path, key: str) -> dict[str, Any]:
            with restored_weights(self.model):
                trainer, log = train_reference(
                    self.model,
                    reference_args(self.args, self.directory.work_folder(name, key)),
                    self.rows.train_dataset,
                    self.rows.tokenizer,
                    label=name,
                    callbacks=stopping_after(share),
                    **self.arguments,
                )
                # On every process, since shards are gathered; one writes.
                trainer.save_model(str(folder))
            write_json(folder / LOG_FILE, log)
            return {"learning_updates": trainer.state.global_step}

        return build

    def trial_settings(self) -> dict[str, Any]:
        """See `TrainerRows.key`."""
        return {"tokenizer": self.rows.key("tokenizer")}

    def trial(self, folder: Path, work: Path, preparation: Preparation | None) -> dict[str, Any]:
        """A trial run; nothing of it is kept but its loss."""
        del folder
        assert preparation is not None
        with restored_weights(self.model):
            return {"held_out_loss": self.trial_loss(work, preparation)}


def price_ahead(method: Method, held_out: Any, compares: bool) -> str | None:
    """What the stages before training that are not there yet, and training, will take, in lines.

    None where that is seconds, and under several processes, whose share of the work the measurement does not know.

    Args:
        method: of a trainer.
        held_out: its `eval_dataset`.
        compares: whether there is a plain run to compare with.
    """
    if process_count() > 1:
        return None
    # What is wrong with a row or too large, the stages say with a remedy.
    with suppress(ValueError, torch.OutOfMemoryError):
        return _price(method, held_out, compares)
    return None


def _price(method: Method, held_out: Any, compares: bool) -> str | None:
    models = method.models
    assert isinstance(models, ModelInMemory)
    args, rows, model = models.args, models.rows, models.model
    tasks = [] if rows.forgetting is None else list(dict.fromkeys(rows.forgetting[TASK_COLUMN]))
    directory = StagesAhead(models.directory, most_candidates(tasks, args.forget_trials == "both"))
    twin = replace(models, directory=directory, _plain={})
    Method(args, rows, twin, directory, method.announce).stages_read()
    if compares:
        twin.plain(1.0)
    heads = [(name, name.partition("/")[0]) for name in [*directory.ahead, OWN]]

    def work(answer: float) -> dict[str, Work]:
        return {name: stage_work(head, args, amounts, answer) for name, head in heads}

    sets = held_out.values() if isinstance(held_out, Mapping) else [held_out]
    known = [part for part in sets if isinstance(part, Dataset) and "input_ids" in part.column_names]
    ids = [row for part in known for row in looked_at(part)["input_ids"][:]]
    learned = rows.train_dataset if isinstance(rows.train_dataset, Dataset) else rows.learning
    elicits, prompts = pool_lengths(rows, args.forget_answers)
    amounts = Amounts(
        learning=Lengths.of(looked_at(learned)["input_ids"][:], len(learned)),
        held_out=Lengths.of(ids, sum(map(len, known))),
        prompts=prompts,
        elicits=elicits,
        options=options_each(rows.forgetting),
        reads_once=reads_prompts_once(model),
        parameters=model.num_parameters(),
        trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        model_bytes=sum(parameter.nbytes for parameter in model.parameters()),
    )
    if not worth_measuring(amounts.parameters, work(args.elicitation_max_new_tokens)):
        return None
    pool = rows.forgetting if elicits and args.elicitation_server_url is None else None
    asked = [] if pool is None else prompts_of(pool, rows.tokenizer)
    speed = measured_speed(model, rows.tokenizer, args, rows.learning, asked, pool, amounts.trained)
    uncounted = ["the answers of the server"] if elicits and pool is None else []
    return price_of(work(speed.answer(args.elicitation_max_new_tokens)), speed, args, amounts, model, uncounted)


def load_trained_weights(model: PreTrainedModel | PeftModel, folder: Path) -> None:
    """Put into `model` the trainable weights of one of its kind that `save_pretrained` wrote to `folder`."""
    if isinstance(model, PeftModel):
        adapter = model.active_adapter
        place = folder if adapter == "default" else folder / adapter
        set_peft_model_state_dict(model, load_peft_weights(str(place), device="cpu"), adapter_name=adapter)
        return
    tuned = dict(type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True).named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(tuned[name])
