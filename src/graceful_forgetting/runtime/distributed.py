"""Sharing work among the processes of one launch (accelerate, torchrun), if there are several."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


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


def from_main_process(value: T) -> T:
    """`value` of process 0, on every process; all wait here for the last one."""
    return gather(value)[0]


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over the processes, the same on all of them, in place."""
    if _several():
        # NCCL reduces on devices only, gloo on the CPU.
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        moved = tensor.to(device)
        dist.all_reduce(moved)
        tensor.copy_(moved)
    return tensor


def together(work: Callable[[], T]) -> T:
    """What `work` returns on this process; if it fails on one, all raise, so that none waits for it: its own error
    there, a note elsewhere."""
    value, error = None, None
    try:
        value = work()
    except Exception as raised:
        error = raised
    messages = gather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for index, message in enumerate(messages):
        if message is not None:
            raise RuntimeError(f"process {index} failed: {message}")
    return value  # type: ignore[return-value]


def on_main_process(work: Callable[[], T]) -> T:
    """What `work` returns on process 0, on every process; its error is raised on all."""
    return from_main_process(together(lambda: work() if process_index() == 0 else None))  # type: ignore[return-value]


def shards_models() -> bool:
    """Whether trainers of this launch shard their model (FSDP); known from the first trainer on."""
    return PartialState().distributed_type == DistributedType.FSDP


def whole(tensor: Tensor) -> Tensor:
    """`tensor` itself, or all of it where this process holds a shard; then every process must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, other: Tensor) -> Tensor:
    """This process's shard of a whole `tensor`, if `other`, of the same shape, is sharded; else `tensor` itself."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor, other.device_mesh, other.placements, src_data_rank=None)


def resharded(model: Model) -> Model:
    """`model`, whose parameters are shards again where FSDP2 shards them.

    After a forward pass without a backward pass those of the outermost module are whole copies, and nothing that is
    done to a copy reaches the weights.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return model


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
