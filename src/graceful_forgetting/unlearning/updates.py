"""The state of unlearning during one training run: rows, optimizer, order, guard; saved and restored exactly."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.training_args import OptimizerNames

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import OTHER_OPTIONS
from graceful_forgetting.runtime.artifacts import atomic_directory, read_json, write_json
from graceful_forgetting.runtime.distributed import sharded_like, whole
from graceful_forgetting.runtime.store import read_rows
from graceful_forgetting.selection import WEIGHT_COLUMN, save_selected
from graceful_forgetting.unlearning.base_losses import BASE_LOSS_COLUMN
from graceful_forgetting.unlearning.fallback import HeldOutComparison
from graceful_forgetting.unlearning.guard import Guard
from graceful_forgetting.unlearning.objectives import Need, Objective, objective_of
from graceful_forgetting.unlearning.order import batch_indices

logger = logging.getLogger(__name__)

STATE_VERSION = 3
SAMPLES, RETAINED = "samples", "retained"


@dataclass
class UnlearningLog:
    """Measurements of the unlearning updates since the last log."""

    losses: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)

    def add(self, loss: float, active: float, grad_norm: float) -> None:
        self.losses.append(loss)
        self.active.append(active)
        self.grad_norms.append(grad_norm)

    def drain(self) -> dict[str, float]:
        """Means since the last call, under the names of the Trainer log; empty when nothing was unlearned."""
        if not self.losses:
            return {}
        means = {
            "unlearn_loss": sum(self.losses) / len(self.losses),
            "unlearn_active": sum(self.active) / len(self.active),
            "unlearn_grad_norm": sum(self.grad_norms) / len(self.grad_norms),
        }
        self.losses, self.active, self.grad_norms = [], [], []
        return means


@dataclass(frozen=True)
class MicroBatch:
    """The rows of one pass of an unlearning update (`input_ids`, `labels`, perhaps `other_options`) on one process.

    Attributes:
        forget: samples to unlearn.
        weights: (len(forget),) float32, how much each counts; 1 on average over all samples.
        base_losses: (len(forget),) float32, L(x) of the base model; none where the objective needs none.
        learning: as many learning rows; none where the objective needs none.
        retained: as many retained samples; none where there is no retain term.
    """

    forget: list[dict[str, Any]]
    weights: Tensor
    base_losses: Tensor | None
    learning: list[dict[str, Any]]
    retained: list[dict[str, Any]]


class UnlearningUpdates:
    """What one training run unlearns and how far it has come.

    Args:
        samples: tokenised rows (`input_ids`, `labels`) to unlearn; `unlearn_weight` (how much each counts) and
            `base_loss` (L(x) of the base model) are read where they are there.
        args: settings of the run.
        parameters: gives what the unlearning optimizer moves (the trainable ones of them, in model order); called when
            training has begun, since FSDP puts shards in the place of a model's parameters then.
        retained: tokenised rows of the retain term; none without one.
        learning: tokenised learning rows; needed by some objectives.

    Raises:
        ValueError: weights of the samples that are negative, not finite or all 0; answers that were chosen among
            options, and an objective that reads all logits.
    """

    def __init__(
        self,
        samples: Dataset,
        args: LWFConfig,
        parameters: Callable[[], Iterable[nn.Parameter]],
        retained: Dataset | None = None,
        learning: Dataset | None = None,
    ):
        self.args = args
        self.objective: Objective = objective_of(args)
        self.count = 0
        self.guard = Guard(margin=args.guard_margin)
        self.log = UnlearningLog()
        self._learning_losses: list[Tensor] = []
        self._stop_announced = False
        self.peak_learning_rate = args.unlearn_learning_rate or args.learning_rate
        self._give_parameters = parameters
        self.learning = learning if Need.LEARNING in self.objective.needs else None
        optional = [name for name in (WEIGHT_COLUMN, BASE_LOSS_COLUMN) if name in samples.column_names]
        self.samples = samples.select_columns([*_row_columns(samples), *optional])
        self.retained = None if retained is None else retained.select_columns(_row_columns(retained))
        if Need.LOGITS in self.objective.needs and any(map(_has_options, (self.samples, self.retained))):
            raise ValueError(
                f"unlearn_objective={args.unlearn_objective!r} reads the probabilities of all tokens, and answers that "
                "were chosen among options have none: use 'unlikelihood' or 'bounded_tokens', or remove the options"
            )
        self._weights = torch.ones(len(samples))
        if WEIGHT_COLUMN in optional:
            self._weights = _mean_one(torch.tensor(samples[WEIGHT_COLUMN][:], dtype=torch.float64))
        self._base_losses: Tensor | None = None
        if Need.BASE_LOSSES in self.objective.needs:
            self._base_losses = torch.tensor(samples[BASE_LOSS_COLUMN][:], dtype=torch.float32)

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer moves."""
        return [parameter for parameter in self._give_parameters() if parameter.requires_grad]

    @cached_property
    def optimizer(self) -> torch.optim.AdamW:
        """The optimizer of the unlearning updates."""
        # No weight decay: it would pull towards zero weights, which is no part of the objective.
        # Fused where that of learning is, as by default: the plain one costs several times as much on small models.
        fused = self.args.optim == OptimizerNames.ADAMW_TORCH_FUSED
        return torch.optim.AdamW(self.parameters, lr=self.peak_learning_rate, weight_decay=0.0, fused=fused)

    def next_micro_batches(self, process: int, processes: int) -> list[MicroBatch]:
        """This process's share of the rows of the next update, one batch per pass."""
        size = self.args.unlearn_batch_size
        passes = self.args.unlearn_passes
        total = size * passes * processes
        share = slice(process * size * passes, (process + 1) * size * passes)

        def drawn(rows: Dataset | None, stream: int) -> list[int]:
            if rows is None:
                return []
            return batch_indices(self.count, total, len(rows), self.args.seed + stream)[share]

        forget, learning, retained = (
            drawn(rows, stream) for stream, rows in enumerate((self.samples, self.learning, self.retained))
        )
        batches = []
        for start in range(0, len(forget), size):
            part = slice(start, start + size)
            batches.append(
                MicroBatch(
                    forget=_rows(self.samples, forget[part]),
                    weights=self._weights[forget[part]],
                    base_losses=None if self._base_losses is None else self._base_losses[forget[part]],
                    learning=_rows(self.learning, learning[part]),
                    retained=_rows(self.retained, retained[part]),
                )
            )
        return batches

    def note_learning_loss(self, loss: Tensor) -> None:
        """Keep the loss of one pass of a learning update, (), nats per token, for the guard."""
        self._learning_losses.append(loss)

    def observe_learning_loss(self, accelerator: Accelerator, step: int) -> None:
        """Hand the loss of the last learning update, the sum over its passes, to the guard; every process must call.

        Args:
            accelerator: of the trainer.
            step: learning updates done.
        """
        if self._learning_losses:
            loss = accelerator.gather(torch.stack(self._learning_losses).sum()).mean().item()
            self._learning_losses.clear()
            self.guard.observe_learning_loss(loss, step)
            self._announce_stop()

    def observe_held_out_losses(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand the losses (`*_loss`) of an evaluation to the guard."""
        for name, value in metrics.items():
            if name.endswith("_loss"):
                self.guard.observe_held_out_loss(name, value, step)
        self._announce_stop()

    def _announce_stop(self) -> None:
        if self.guard.stopped and not self._stop_announced:
            self._stop_announced = True
            logger.warning(f"Unlearning stopped at learning update {self.guard.step}: {self.guard.reason}")

    def save(self, directory: Path, write: bool) -> None:
        """Write everything that the next update depends on to `directory`.

        Every process must call this, since shards of the optimizer's state are gathered; those with `write` write it.
        The state is written whole, so that any number of processes can go on from it.
        """
        tensors = {}
        for index, state in self.optimizer.state_dict()["state"].items():
            for name, value in state.items():
                value = whole(value.detach())
                if write:
                    tensors[f"{index}.{name}"] = value.cpu().contiguous()
        if not write:
            return
        with atomic_directory(directory) as partial:
            save_selected(self.samples, partial / SAMPLES)
            if self.retained is not None:
                self.retained.save_to_disk(str(partial / RETAINED))
            save_file(tensors, partial / "optimizer.safetensors")
            state = {
                "version": STATE_VERSION,
                "count": self.count,
                "guard": self.guard.state_dict(),
                "log": asdict(self.log),
            }
            write_json(partial / "state.json", state)

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote; the rows are read by `load_rows` before construction."""
        state = read_json(directory / "state.json")
        self.count = state["count"]
        self.guard = Guard.from_state_dict(state["guard"])
        self.log = UnlearningLog(**state["log"])
        restored: dict[int, dict[str, Tensor]] = {}
        with safe_open(directory / "optimizer.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                index, name = key.split(".", 1)
                value, parameter = file.get_tensor(key), self.parameters[int(index)]
                if value.shape == parameter.shape:
                    value = sharded_like(value, parameter)
                restored.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": restored, "param_groups": groups})


def load_rows(directory: Path) -> tuple[Dataset, Dataset | None]:
    """The samples of a checkpoint's unlearning state, and the retained ones if it has any.

    Raises:
        FileNotFoundError: the checkpoint holds no unlearning state.
        ValueError: it was written in another format.
    """
    if not (directory / "state.json").is_file():
        raise FileNotFoundError(
            f"{directory} holds no unlearning state, so this checkpoint cannot be resumed exactly: resume from a "
            "checkpoint that LWFTrainer wrote with save_only_model=False, or set unlearn_every=0"
        )
    version = read_json(directory / "state.json")["version"]
    if version != STATE_VERSION:
        raise ValueError(f"{directory} has unlearning state of version {version}, and this one reads {STATE_VERSION}")
    retained = directory / RETAINED
    return read_rows(directory / SAMPLES), read_rows(retained) if retained.is_dir() else None


def unlearning_summary(updates: UnlearningUpdates | None, compared: HeldOutComparison | None) -> dict[str, Any]:
    """How many updates there were and what the guard did; JSON types. None: nothing was unlearned, or not compared."""
    guard = Guard(margin=None) if updates is None else updates.guard
    return {
        "updates": 0 if updates is None else updates.count,
        "guard": {
            "stopped": guard.stopped,
            "reason": guard.reason,
            "step": guard.step,
            "fell_back": compared is not None and compared.falls_back,
            "held_out_loss": None if compared is None else compared.loss,
            "plain_held_out_loss": None if compared is None else compared.plain_loss,
        },
    }


def _rows(dataset: Dataset | None, indices: list[int]) -> list[dict[str, Any]]:
    if dataset is None or not indices:
        return []
    # All at once: a look-up for each row would cost more than the rest of the update's bookkeeping.
    columns = dataset[indices]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _row_columns(rows: Dataset) -> list[str]:
    return [name for name in ("input_ids", "labels", OTHER_OPTIONS) if name in rows.column_names]


def _has_options(rows: Dataset | None) -> bool:
    return rows is not None and OTHER_OPTIONS in rows.column_names and any(rows[OTHER_OPTIONS])


def _mean_one(weights: Tensor) -> Tensor:
    if not bool((weights >= 0).all() and weights.isfinite().all()) or not bool(weights.any()):
        raise ValueError(
            f"the column {WEIGHT_COLUMN!r} must hold finite numbers of at least 0, not all of them 0: it goes from "
            f"{weights.min():g} to {weights.max():g}"
        )
    return (weights / weights.mean()).float()
