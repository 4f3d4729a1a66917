"""The rule for a module of any kind: its own forward and backward again, sample by sample."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from graceful_forgetting.gradients.calls import Backward, Call, UnsupportedUse
from graceful_forgetting.gradients.contributions import Contribution, Direct, as_matrix

# Elements of the per-sample gradients that are held together, of all samples of one call.
_LIMIT = 2**22


def recomputed_rule(call: Call) -> tuple[Any, Backward]:
    """Exact for every module that takes one tensor, by sample, and whose own parameters are small."""
    module, batch = call.module, call.batch
    others = [value for value in (*call.args[1:], *call.kwargs.values()) if value is not None]
    if not call.args or any(not isinstance(value, bool | int | float | str) for value in others):
        raise UnsupportedUse("their module takes more than one tensor")
    call.require_samples(call.input.shape[:-1])
    own = {name: p.detach() for name, p in module.named_parameters(recurse=False) if name in call.wanted}
    if batch * sum(p.numel() for p in own.values()) > _LIMIT:
        raise UnsupportedUse("their module has too many parameters to hold their gradients by sample")
    if any(len(tensor) % batch for tensor in _floating(call.output)):
        raise UnsupportedUse("the output of their module is not by sample")
    # The model may overwrite its input.
    activation, args, kwargs = call.input.detach().clone(), call.args[1:], dict(call.kwargs)

    def backward(*deltas: Tensor | None) -> Iterator[tuple[str, Contribution]]:
        inputs = activation.chunk(batch)
        by_sample = [None if delta is None else delta.chunk(batch) for delta in deltas]
        gradients: dict[str, list[Tensor]] = {name: [] for name in own}
        for sample in range(batch):
            with torch.enable_grad():
                leaves = {name: p.clone().requires_grad_() for name, p in own.items()}
                outputs = _floating(functional_call(module, leaves, (inputs[sample], *args), kwargs))
                reached = [
                    (out, parts[sample])
                    for out, parts in zip(outputs, by_sample, strict=True)
                    if parts is not None and out.requires_grad
                ]
                found = torch.autograd.grad(
                    [out for out, _ in reached],
                    list(leaves.values()),
                    [delta for _, delta in reached],
                    allow_unused=True,
                    materialize_grads=True,
                )
            for name, gradient in zip(own, found, strict=True):
                gradients[name].append(as_matrix(gradient))
        for name, parts in gradients.items():
            yield name, Direct(torch.stack(parts))

    return call.output, backward


def _floating(output: Any) -> list[Tensor]:
    """The tensors of a module's output that can have a gradient."""
    parts = output if isinstance(output, tuple) else (output,)
    return [part for part in parts if isinstance(part, Tensor) and part.is_floating_point()]
