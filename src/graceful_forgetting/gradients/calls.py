"""One call of a module in the forward pass, and what a rule makes of it."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graceful_forgetting.gradients.contributions import Contribution


class UnsupportedUse(Exception):
    """A module is used in a way that its rule does not cover; the message says how."""


# Takes the gradient of every tensor that the module put out (None where the loss does not depend on it).
Backward = Callable[..., Iterator[tuple[str, Contribution]]]


@dataclass(frozen=True)
class Call:
    """One call of a module: which of its parameters are wanted, and the size of the batch of token ids."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    wanted: Collection[str]
    batch: int
    length: int

    @property
    def input(self) -> Tensor:
        return next(iter((*self.args, *self.kwargs.values())))

    def require_samples(self, lead: torch.Size) -> None:
        """Raise `UnsupportedUse` unless leading dimensions `lead` are (batch, ...) or (batch · length)."""
        by_sample = len(lead) >= 2 and lead[0] == self.batch
        flattened = len(lead) == 1 and lead[0] == self.batch * self.length
        if not (self.batch == 1 or by_sample or flattened):
            raise UnsupportedUse(f"called with leading dimensions {tuple(lead)} for {self.batch} samples")


# Returns the output, of the same structure, with which the model goes on, and the function for the backward pass.
# That function must not hold the call: its output would hold the function, through autograd's
# graph, and live until the garbage collector ran.
Rule = Callable[[Call], tuple[Any, Backward]]


def by_sample(tensor: Tensor, batch: int) -> Tensor:
    """(batch, positions, last dimension) of an activation or a gradient."""
    return tensor.reshape(batch, -1, tensor.shape[-1])


def reached(output: Any) -> tuple[Any, list[Tensor]]:
    """A module's output, of which every tensor carries a gradient, and those tensors."""
    if isinstance(output, tuple):
        # Views, as one part may be computed from another: each gradient is to hold its own part's uses alone.
        views = [part.view_as(part) if isinstance(part, Tensor) else part for part in output]
        parts = [reached(part) if isinstance(part, Tensor) else (part, []) for part in views]
        return tuple(part for part, _ in parts), [tensor for _, tensors in parts for tensor in tensors]
    if not output.is_floating_point():
        return output, []
    if not output.requires_grad:
        # Cloned, as a model may go on in place, which a leaf forbids.
        output = output.detach().requires_grad_().clone()
    return output, [output]
