"""The state of unlearning during one training run: samples, optimizer, order, guard; saved and restored exactly."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from graceful_forgetting.artifacts import atomic_directory, read_json, write_json
from graceful_forgetting.config import LWFConfig
from graceful_forgetting.unlearning.guard import Guard
from graceful_forgetting.unlearning.objectives import OBJECTIVES
from graceful_forgetting.unlearning.order import batch_indices

STATE_VERSION = 1


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


class UnlearningUpdates:
    """What one training run unlearns and how far it has come.

    Args:
        samples: tokenised rows (`input_ids`, `labels`) to unlearn.
        args: settings of the run.
        parameters: what the unlearning optimizer moves (the trainable parameters, in model order).
    """

    def __init__(self, samples: Dataset, args: LWFConfig, parameters: Iterable[nn.Parameter]):
        self.samples = samples.select_columns(["input_ids", "labels"])
        self.args = args
        self.count = 0
        self.guard = Guard(margin=args.guard_margin, enabled=args.guard)
        self.log = UnlearningLog()
        self.peak_learning_rate = args.unlearn_learning_rate or args.learning_rate / 2
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        # No weight decay: it would pull towards zero weights, which is no part of the objective.
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.peak_learning_rate, weight_decay=0.0)

    def objective(self, losses: Tensor) -> Tensor:
        """Value to minimise per sample, from L(x); both of shape (batch,)."""
        return OBJECTIVES[self.args.unlearn_objective](losses, self.args.unlearn_loss_cap)

    def active(self, losses: Tensor) -> Tensor:
        """Which samples still have a gradient; shape (batch,), bool."""
        if self.args.unlearn_objective == "gradient_ascent":
            return torch.ones_like(losses, dtype=torch.bool)
        return losses < self.args.unlearn_loss_cap

    def next_micro_batches(self, process: int, processes: int) -> list[list[dict[str, Any]]]:
        """This process's share of the rows of the next update, one list per pass."""
        size = self.args.per_device_unlearn_batch_size
        passes = self.args.unlearn_gradient_accumulation_steps
        total = size * passes * processes
        indices = batch_indices(self.count, total, len(self.samples), self.args.seed)
        share = indices[process * size * passes : (process + 1) * size * passes]
        return [[self.samples[i] for i in share[start : start + size]] for start in range(0, len(share), size)]

    def save(self, directory: Path) -> None:
        """Write everything that the next update depends on to `directory`."""
        with atomic_directory(directory) as partial:
            self.samples.save_to_disk(str(partial / "samples"))
            tensors = {
                f"{index}.{name}": value.detach().cpu().contiguous()
                for index, state in self.optimizer.state_dict()["state"].items()
                for name, value in state.items()
            }
            save_file(tensors, partial / "optimizer.safetensors")
            state = {
                "version": STATE_VERSION,
                "count": self.count,
                "guard": self.guard.state_dict(),
                "log": asdict(self.log),
            }
            write_json(partial / "state.json", state)

    def load(self, directory: Path) -> None:
        """Continue from what `save` wrote; the samples are read by `load_samples` before construction."""
        state = read_json(directory / "state.json")
        self.count = state["count"]
        self.guard = Guard.from_state_dict(state["guard"])
        self.log = UnlearningLog(**state["log"])
        restored: dict[int, dict[str, Tensor]] = {}
        with safe_open(directory / "optimizer.safetensors", framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                index, name = key.split(".", 1)
                restored.setdefault(int(index), {})[name] = file.get_tensor(key)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": restored, "param_groups": groups})


def load_samples(directory: Path) -> Dataset:
    """The samples of a checkpoint's unlearning state.

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
    return load_from_disk(str(directory / "samples"))
