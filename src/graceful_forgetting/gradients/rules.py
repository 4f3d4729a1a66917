"""Per-sample gradients of one module's parameters, from its inputs and the gradient of its output.

A rule is called in the forward pass. It returns a function that, given δ = ∂(Σ_s L_s)/∂output in the
backward pass, yields every parameter's per-sample gradient as a `Contribution`, which forms no more of it
at once than is asked for. Samples do not mix in a causal language model, so row s of δ is the gradient of
L_s alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from graceful_forgetting.gradients.calls import Backward, Call, Rule, UnsupportedUse, by_sample
from graceful_forgetting.gradients.contributions import Contribution, Dense, Direct, Rows, as_matrix
from graceful_forgetting.gradients.experts import experts_rule, is_experts
from graceful_forgetting.gradients.recompute import recomputed_rule


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a module's own parameters; None where there is none.

    Norms, routers and DoRA's magnitudes are known by their class names, as each architecture of transformers has its
    own classes; the engine's check holds a name to its promise.
    """
    kind = type(module)
    if isinstance(module, nn.Linear) and (kind.forward is nn.Linear.forward or kind.__name__ == "FalconLinear"):
        return linear_rule
    if kind is Conv1D:
        return conv1d_rule
    if isinstance(module, nn.Embedding):
        return embedding_rule
    own = {name for name, _ in module.named_parameters(recurse=False)}
    if kind.__name__.endswith(("RMSNorm", "LayerNorm")) and own in ({"weight"}, {"weight", "bias"}):
        return norm_rule
    if kind.__name__ == "DoraLinearLayer":
        return norm_rule
    if is_experts(module):
        return experts_rule
    if kind.__name__.endswith("Router"):
        return recomputed_rule
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
        delta = by_sample(delta, batch)
        if "weight" in wanted:
            yield "weight", weight(by_sample(activation, batch), delta)
        if "bias" in wanted:
            yield "bias", Direct(delta.sum(dim=1, keepdim=True, dtype=torch.float32))

    return call.output, backward


def embedding_rule(call: Call) -> tuple[Tensor, Backward]:
    """`nn.Embedding`, and subclasses that find the ids themselves or scale the rows by a constant.

    Position embeddings are looked up once for all samples, as (1, length); the output is spread over the
    batch so that its gradient stays apart by sample.
    """
    module = call.module
    assert isinstance(module, nn.Embedding)
    if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        raise UnsupportedUse("an embedding with max_norm, scale_grad_by_freq or sparse gradients")
    ids, scale = _looked_up(call, module)
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
def _looked_up(call: Call, module: nn.Embedding) -> tuple[Tensor, float]:
    """Row ids of a look-up and the constant that its output is scaled by."""
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
    """LayerNorm and RMSNorm of any kind, and DoRA's magnitudes: output = (c + weight) · n + bias + rest.

    n, c and the rest are free of weight and bias.

    n is found as the output at weight 1 less that at weight 0, so that c (0, or 1 in Gemma) and ε need not
    be known. Where one position shows that there is no rest, and no weight is near −c, a division does.
    """
    module = call.module
    own = {name: parameter.detach() for name, parameter in module.named_parameters(recurse=False)}
    dims = own["weight"].dim()
    if call.output.shape[-dims:] != own["weight"].shape:
        raise UnsupportedUse(f"a norm with weight {tuple(own['weight'].shape)}, output {tuple(call.output.shape)}")
    call.require_samples(call.output.shape[:-dims])
    args = tuple(value.detach() if isinstance(value, Tensor) else value for value in call.args)
    kwargs = {name: value.detach() if isinstance(value, Tensor) else value for name, value in call.kwargs.items()}
    factor = None if len(args) > 1 or kwargs else _norm_factor(module, own, args[0])
    # Of the two, one is kept.
    inputs, output = ((args, kwargs), None) if factor is None else (((), {}), call.output.detach())

    def normalised() -> Tensor:
        if factor is None or output is None:
            return _unit_output(module, own, *inputs)
        return (output.float() - own["bias"] if "bias" in own else output) / factor

    batch, wanted = call.batch, call.wanted

    def backward(delta: Tensor) -> Iterator[tuple[str, Contribution]]:
        delta = delta.float()
        for name in wanted:
            product = delta * normalised() if name == "weight" else delta
            gradient = product.reshape(batch, -1, *own[name].shape).sum(dim=1)
            yield name, Direct(gradient.reshape(batch, *as_matrix(own[name]).shape))

    return call.output, backward


@torch.no_grad()
def _unit_output(
    module: nn.Module, own: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor:
    """A norm's output at weight 1 less that at weight 0, bias 0."""
    zeros = {name: torch.zeros_like(value) for name, value in own.items()}
    ones = {**zeros, "weight": torch.ones_like(own["weight"])}
    return functional_call(module, ones, args, dict(kwargs)) - functional_call(module, zeros, args, dict(kwargs))


# c of every norm seen: it is the module's kind that decides it.
_OFFSETS: WeakKeyDictionary[nn.Module, float | None] = WeakKeyDictionary()
_SMALL = 1e-2


@torch.no_grad()
def _norm_factor(module: nn.Module, own: Mapping[str, Tensor], activation: Tensor) -> Tensor | None:
    """c + weight, float32, if the output is that times n, plus the bias, and no element is near 0; else None."""
    if module not in _OFFSETS:
        position = activation.reshape(-1, activation.shape[-1])[:1].float()
        zeros = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in own.items()}
        shift, unit = functional_call(module, zeros, (position,)), _unit_output(module, zeros, (position,), {})
        # 0 in most and 1 in Gemma's; anything else is left to the general way.
        _OFFSETS[module] = next((c for c in (0.0, 1.0) if torch.allclose(shift, c * unit, atol=1e-6)), None)
    offset = _OFFSETS[module]
    if offset is None:
        return None
    factor = offset + own["weight"].float()
    return factor if bool(factor.abs().amin() > _SMALL * factor.abs().amax()) else None
