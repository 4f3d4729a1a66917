"""Sharing work among the processes of one launch (accelerate, torchrun), if there are several."""

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def process_index() -> int:
    """Index of this process; 0 where there is only one."""
    return dist.get_rank() if _several() else 0


def process_count() -> int:
    """Number of processes; 1 outside a launch."""
    return dist.get_world_size() if _several() else 1


def gather(value: T) -> list[T]:
    """`value` of every process, in their order, on every process."""
    if not _several():
        return [value]
    values: list[T | None] = [None] * process_count()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over the processes, the same on all of them, in place."""
    if _several():
        # NCCL reduces on devices only, gloo on the CPU.
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        moved = tensor.to(device)
        dist.all_reduce(moved)
        tensor.copy_(moved)
    return tensor


def raise_together(error: Exception | None) -> None:
    """Raise on every process if one failed, so that none waits for it: its own error there, a note elsewhere."""
    messages = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for index, message in enumerate(messages):
        if message is not None:
            raise RuntimeError(f"process {index} failed: {message}")


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
