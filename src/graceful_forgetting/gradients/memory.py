"""How much memory scoring and the Fisher information will take, before they start."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from graceful_forgetting.config import ConfidenceConfig, PosteriorConfig
from graceful_forgetting.gradients.token_loss import counted_logits, counted_targets, mean_nll
from graceful_forgetting.gradients.undisturbed import differentiating
from graceful_forgetting.runtime.distributed import process_count

_FLOAT32 = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that scoring, or the Fisher information, needs beside the model and the posterior, on one device.

    `weights`: F and FΔ (scoring), or the sums of squares (Fisher information); `activations`: what one forward pass of
    a batch keeps for its backward pass, with the logits; `parameters`: copies of the parameters covered, and gradients
    that are held; `available`: what is free.
    """

    weights: int
    activations: int
    parameters: int
    available: int
    device: str
    weights_are: str = "F and FΔ"

    @property
    def total(self) -> int:
        return self.weights + self.activations + self.parameters

    def __str__(self) -> str:
        return (
            f"about {_gib(self.total)} of memory on {self.device} ({self.weights_are} {_gib(self.weights)}, a batch "
            f"{_gib(self.activations)}, copies of parameters and gradients {_gib(self.parameters)}); "
            f"{_gib(self.available)} free"
        )

    def require_fit(self, config: ConfidenceConfig | PosteriorConfig) -> None:
        """Raise `ValueError`, with the numbers and what to change, unless it fits."""
        if self.total <= self.available:
            return
        remedies = []
        if self.activations >= self.weights and config.batch_size > 1:
            remedies.append(f"lower batch_size ({config.batch_size})")
        if isinstance(config, PosteriorConfig):
            remedies.append("cover fewer parameters (parameters='last_blocks:2')")
            raise ValueError(f"the Fisher information does not fit: {self}; {', or '.join(remedies)}")
        if self.weights and config.weights_placement == "resident":
            remedies.append("set weights_placement='streamed' (or weights_dtype='bfloat16')")
        if self.parameters and config.step_size_rule == "line_search":
            remedies.append("use step_size_rule='polyak'")
        remedies.append("cover fewer parameters (parameters='last_blocks:2' of the posterior)")
        raise ValueError(f"scoring does not fit: {self}; {', or '.join(remedies)}")


def forward_bytes(model: PreTrainedModel, row: Mapping[str, Tensor], batch_size: int) -> int:
    """What forward passes without gradient need for a batch of rows like `row`: logits and their log-softmax."""
    positions, _ = counted_targets(row)
    vocabulary = model.config.get_text_config().vocab_size
    return batch_size * len(positions) * vocabulary * (model.dtype.itemsize + 2 * _FLOAT32)


def backward_bytes(model: PreTrainedModel, row: Mapping[str, Tensor], batch_size: int, names: Collection[str]) -> int:
    """What a forward and backward pass needs for a batch of rows like `row`, measured by a forward pass of it.

    Everything that autograd keeps, the parameters aside, and the gradient of the logits.
    """
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        differentiating(model, names),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(note, _unchanged),
    ):
        positions, targets = counted_targets(row)
        mean_nll(counted_logits(model, row, positions), targets)
    return batch_size * sum(kept.values()) + forward_bytes(model, row, batch_size)


def weight_bytes(parameters: Mapping[str, nn.Parameter], config: ConfidenceConfig) -> int:
    """F and FΔ: of all parameters if they are resident, else of the largest one, while it is formed."""
    sizes = [parameter.numel() for parameter in parameters.values()]
    if config.weights_placement == "streamed":
        return 4 * _FLOAT32 * max(sizes)
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters.values())
    if config.weights_dtype == "float32":
        # On the CPU the posterior's own F serves.
        return sum(sizes) * _FLOAT32 * (1 if on_cpu else 2)
    return sum(sizes) * 2 * 2


def available_bytes(device: torch.device) -> int:
    """Free memory of a device; of the CPU, this process's share where several run on one machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if process_count() > 1 else 1
    return int(psutil.virtual_memory().available) // sharing


def _unchanged(saved: Any) -> Any:
    return saved


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
