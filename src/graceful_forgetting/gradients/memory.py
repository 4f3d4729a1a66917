"""How much memory a pass over many rows will take, before it starts."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import finalize

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel

from graceful_forgetting.gradients.token_loss import counted_targets, logits_at_once, mean_losses
from graceful_forgetting.gradients.undisturbed import differentiating
from graceful_forgetting.runtime.distributed import process_count

_FLOAT32 = 4
# What operations take on their way, and what lies between tensors: memory in use is a fifth more than what is alive or
# autograd keeps, to a tenth of the whole (evidence/speed/memory_estimates.py).
_ON_THE_WAY = 5


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a pass over many rows needs beside the model and the posterior, on one device.

    Attributes:
        activations: what one forward pass of a batch keeps for its backward pass, with the logits.
        weights: what gradients are reduced against, or summed into; `weights_are` names it.
        copies: of the parameters covered, and gradients that are held.
        available: what is free.
        device: where.
        remedies: what the user can change, beside the batch size and the parameters covered.
    """

    activations: int
    weights: int
    copies: int
    available: int
    device: str
    weights_are: str
    remedies: tuple[str, ...]

    @classmethod
    def on(
        cls,
        model: PreTrainedModel,
        activations: int,
        *,
        weights: int = 0,
        copies: int = 0,
        weights_are: str = "F and FΔ",
        remedies: tuple[str, ...] = (),
    ) -> "MemoryEstimate":
        """On the device of the model, with what is free there."""
        free, device = available_bytes(model.device), str(model.device)
        return cls(activations, weights, copies, free, device, weights_are, remedies)

    @property
    def total(self) -> int:
        return self.activations + self.weights + self.copies

    def __str__(self) -> str:
        return (
            f"about {_gib(self.total)} of memory on {self.device} ({self.weights_are} {_gib(self.weights)}, a batch "
            f"{_gib(self.activations)}, copies of parameters and gradients {_gib(self.copies)}); "
            f"{_gib(self.available)} free"
        )

    def require_fit(self, what: str, batch_size: int) -> None:
        """Raise `ValueError`, with the numbers and what to change, unless it fits."""
        if self.total <= self.available:
            return
        lower = self.activations >= self.weights and batch_size > 1
        remedies = [f"lower batch_size ({batch_size})"] if lower else []
        remedies += [*self.remedies, "cover fewer parameters (parameters='last_blocks:2' of the posterior)"]
        raise ValueError(f"{what} does not fit: {self}; {', or '.join(remedies)}")


def forward_bytes(model: PreTrainedModel, row: Mapping[str, Tensor], batch_size: int) -> int:
    """What forward passes without gradient need for a batch of rows like `row`, measured by a forward pass of it.

    The most that layers hold at once, the logits, and what is worked on of them at once. All of it counts: what layers
    have freed lies in pieces, into which the logits do not fit.
    """
    positions, _ = counted_targets(row)
    vocabulary = model.config.get_text_config().vocab_size
    logits = batch_size * len(positions) * vocabulary
    worked_on = min(logits, logits_at_once(model.device)) * _FLOAT32
    head = model.get_output_embeddings()
    with differentiating(model, ()), torch.no_grad(), _Layers(None if head is not None else vocabulary) as layers:
        ends = head.register_forward_pre_hook(layers.end) if head is not None else None
        try:
            mean_losses(model, row)
        finally:
            if ends is not None:
                ends.remove()
    in_use = batch_size * layers.most + logits * model.dtype.itemsize + worked_on
    return in_use + in_use // _ON_THE_WAY


class _Layers(TorchDispatchMode):
    """`most`: bytes alive at once, of all that is made before `end` is called, or a tensor is as wide as `logits`."""

    def __init__(self, logits: int | None) -> None:
        super().__init__()
        self.most = self._now = 0
        self._logits, self._before = logits, True
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        # What an operation reads was there before, as parameters are, or is known.
        for tensor in (each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)):
            self._known.setdefault(tensor.untyped_storage(), 0)
        for tensor in (each for each in tree_leaves(found) if isinstance(each, Tensor)):
            self._before = self._before and (not tensor.dim() or tensor.shape[-1] != self._logits)
            storage = tensor.untyped_storage()
            if self._before and storage not in self._known:
                self._known[storage] = size = storage.nbytes()
                self._now += size
                self.most = max(self.most, self._now)
                finalize(storage, self._free, size)
        return found

    def end(self, *_: Any) -> None:
        """What is made from now on does not count."""
        self._before = False

    def _free(self, size: int) -> None:
        self._now -= size


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
        mean_losses(model, row)
    positions, _ = counted_targets(row)
    logits = len(positions) * model.config.get_text_config().vocab_size
    # Those of a forward pass are in use with their gradient and what it is made from.
    of_a_row = sum(kept.values()) + logits * (model.dtype.itemsize + 2 * _FLOAT32)
    return batch_size * (of_a_row + of_a_row // _ON_THE_WAY)


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
