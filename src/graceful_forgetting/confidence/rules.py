"""Per-sample gradients of one module's parameters, from its inputs and the gradient of its output.

A rule is called in the forward pass. It returns a function that, given δ = ∂(Σ_s L_s)/∂output in the
backward pass, yields every parameter's per-sample gradient as a `Contribution`, which forms no more of it
at once than is asked for. Samples do not mix in a causal language model, so row s of δ is the gradient of
L_s alone.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D


class UnsupportedUse(Exception):
    """A module is used in a way that its rule does not cover; the message says how."""


@dataclass(frozen=True)
class Dense:
    """G_s = Σ_t left[s, t] right[s, t]ᵀ: left (batch, positions, rows), right (batch, positions, columns)."""

    left: Tensor
    right: Tensor

    def block(self, samples: slice, rows: slice) -> Tensor:
        """Gradients (samples, rows, columns), float32."""
        return torch.bmm(self.left[samples, :, rows].float().mT, self.right[samples].float())

    def add_to(self, block: Tensor, samples: slice, rows: slice) -> None:
        block.baddbmm_(self.left[samples, :, rows].float().mT, self.right[samples].float())


@dataclass(frozen=True)
class Rows:
    """G_s = Σ_t e(ids[s, t]) values[s, t]ᵀ with e(i) the i-th unit vector.

    ids: (batch, positions), below the number of rows; values: (batch, positions, columns).
    """

    ids: Tensor
    values: Tensor

    def add_to(self, block: Tensor, samples: slice, rows: slice) -> None:
        ids, values = self.ids[samples], self.values[samples]
        inside = (ids >= rows.start) & (ids < rows.stop)
        sample = torch.arange(len(ids), device=ids.device).unsqueeze(1).expand_as(ids)
        target = (sample * block.shape[1] + ids - rows.start)[inside]
        block.view(-1, block.shape[2]).index_add_(0, target, values[inside].float())

    def merged(self) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of all G_s that occur: sample (n,) and row (n,) of each, values (n, columns) float32."""
        samples = torch.arange(len(self.ids), device=self.ids.device).unsqueeze(1).expand_as(self.ids)
        stride = int(self.ids.max()) + 1
        keys, inverse = torch.unique(samples * stride + self.ids, return_inverse=True)
        values = self.values.new_zeros((len(keys), self.values.shape[-1]), dtype=torch.float32)
        values.index_add_(0, inverse.flatten(), self.values.flatten(0, 1).float())
        return keys // stride, keys % stride, values


@dataclass(frozen=True)
class Direct:
    """G_s itself, (batch, rows, columns); for parameters that are small vectors."""

    gradient: Tensor

    def block(self, samples: slice, rows: slice) -> Tensor:
        """Gradients (samples, rows, columns), float32."""
        return self.gradient[samples, rows].float().clone()

    def add_to(self, block: Tensor, samples: slice, rows: slice) -> None:
        block.add_(self.gradient[samples, rows].float())


Contribution = Dense | Rows | Direct
Backward = Callable[[Tensor], Iterator[tuple[str, Contribution]]]


@dataclass(frozen=True)
class Call:
    """One call of a module: which of its parameters are wanted, and the size of the batch of token ids."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor
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


# The function returned must not hold the call: its output would hold the function, through autograd's
# graph, and live until the garbage collector ran.
Rule = Callable[[Call], tuple[Tensor, Backward]]


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a module's own parameters; None where there is none.

    Norms are known by the end of their class name, as each architecture of transformers has its own class.
    """
    kind = type(module)
    if isinstance(module, nn.Linear) and kind.forward is nn.Linear.forward:
        return linear_rule
    if kind is Conv1D:
        return conv1d_rule
    if isinstance(module, nn.Embedding):
        return embedding_rule
    own = {name for name, _ in module.named_parameters(recurse=False)}
    if kind.__name__.endswith(("RMSNorm", "LayerNorm")) and own in ({"weight"}, {"weight", "bias"}):
        return norm_rule
    return None


def linear_rule(call: Call) -> tuple[Tensor, Backward]:
    """`nn.Linear`: weight (out, in), bias (out)."""
    return _affine(call, lambda a, delta: Dense(delta, a))


def conv1d_rule(call: Call) -> tuple[Tensor, Backward]:
    """transformers' `Conv1D` (GPT-2): a linear map with weight (in, out), bias (out)."""
    return _affine(call, lambda a, delta: Dense(a, delta))


def _affine(call: Call, weight: Callable[[Tensor, Tensor], Dense]) -> tuple[Tensor, Backward]:
    call.require_samples(call.input.shape[:-1])
    activation, batch, wanted = call.input.detach(), call.batch, call.wanted

    def backward(delta: Tensor) -> Iterator[tuple[str, Contribution]]:
        delta = _by_sample(delta, batch)
        if "weight" in wanted:
            yield "weight", weight(_by_sample(activation, batch), delta)
        if "bias" in wanted:
            yield "bias", Direct(delta.sum(dim=1, keepdim=True, dtype=torch.float32))

    return call.output, backward


def embedding_rule(call: Call) -> tuple[Tensor, Backward]:
    """`nn.Embedding`, and subclasses that find the ids themselves or scale the rows by a constant.

    Position embeddings are looked up once for all samples, as (1, length); the output is spread over the
    batch so that its gradient stays apart by sample.
    """
    module = call.module
    if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        raise UnsupportedUse("an embedding with max_norm, scale_grad_by_freq or sparse gradients")
    ids, scale = _looked_up(call)
    output = call.output
    if ids.dim() == 2 and len(ids) == 1:
        ids, output = ids.expand(call.batch, -1), output.expand(call.batch, -1, -1)
    if ids.dim() != 2 or len(ids) != call.batch:
        raise UnsupportedUse(f"called with ids of shape {tuple(ids.shape)} for {call.batch} samples")

    padding_row = module.padding_idx

    def backward(delta: Tensor) -> Iterator[tuple[str, Contribution]]:
        values = delta * scale
        if padding_row is not None:
            # torch gives that row no gradient, whether it stands in padding or not.
            values = values.masked_fill((ids == padding_row).unsqueeze(2), 0)
        yield "weight", Rows(ids, values)

    return output, backward


@torch.no_grad()
def _looked_up(call: Call) -> tuple[Tensor, float]:
    """Row ids of a look-up and the constant that its output is scaled by."""
    module = call.module
    if type(module).forward is nn.Embedding.forward:
        return call.input, 1.0
    # A table whose row i holds i returns the ids themselves, whatever way the forward comes to them.
    device, rows = module.weight.device, module.num_embeddings
    ones = torch.ones(rows, 1, dtype=torch.float64, device=device)
    scales = functional_call(module, {"weight": ones}, call.args, dict(call.kwargs)).squeeze(-1)
    scale = float(scales.flatten()[0])
    table = torch.arange(rows, dtype=torch.float64, device=device).unsqueeze(1)
    found = functional_call(module, {"weight": table}, call.args, dict(call.kwargs)).squeeze(-1) / scale
    ids = found.round().long()
    if not (bool((scales == scale).all()) and torch.allclose(found, ids.double(), atol=1e-3)):
        raise UnsupportedUse("an embedding whose forward is no plain look-up")
    return ids, scale


def norm_rule(call: Call) -> tuple[Tensor, Backward]:
    """LayerNorm and RMSNorm of any kind: output = (c + weight) · n + bias, with n free of both.

    n is found as the output at weight 1 less that at weight 0, so that c (0, or 1 in Gemma) and ε need not
    be known.
    """
    module = call.module
    own = {name: parameter.detach() for name, parameter in module.named_parameters(recurse=False)}
    dims = own["weight"].dim()
    if call.output.shape[-dims:] != own["weight"].shape:
        raise UnsupportedUse(f"a norm with weight {tuple(own['weight'].shape)}, output {tuple(call.output.shape)}")
    call.require_samples(call.output.shape[:-dims])
    args = tuple(value.detach() if isinstance(value, Tensor) else value for value in call.args)
    kwargs = {name: value.detach() if isinstance(value, Tensor) else value for name, value in call.kwargs.items()}

    def normalised() -> Tensor:
        zeros = {name: torch.zeros_like(value) for name, value in own.items()}
        ones = {**zeros, "weight": torch.ones_like(own["weight"])}
        return functional_call(module, ones, args, kwargs) - functional_call(module, zeros, args, kwargs)

    batch, wanted = call.batch, call.wanted

    def backward(delta: Tensor) -> Iterator[tuple[str, Contribution]]:
        delta = delta.float()
        for name in wanted:
            product = delta * normalised() if name == "weight" else delta
            gradient = product.reshape(batch, -1, *own[name].shape).sum(dim=1)
            yield name, Direct(gradient.reshape(batch, *as_matrix(own[name]).shape))

    return call.output, backward


def _by_sample(tensor: Tensor, batch: int) -> Tensor:
    """(batch, positions, last dimension) of an activation or a gradient."""
    return tensor.reshape(batch, -1, tensor.shape[-1])


def as_matrix(parameter: Tensor) -> Tensor:
    """A parameter as (rows, columns): a vector is one row, further dimensions join the columns."""
    if parameter.dim() < 2:
        return parameter.reshape(1, -1)
    return parameter.reshape(len(parameter), -1)
