"""The rule of fused expert weights, as transformers stores those of a mixture of experts."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graceful_forgetting.gradients.calls import Backward, Call, UnsupportedUse
from graceful_forgetting.gradients.contributions import Contribution, Routed

_ARGUMENTS = ("hidden_states", "top_k_index", "top_k_weights")


def is_experts(module: nn.Module) -> bool:
    """Whether `module` is a class under transformers' `use_experts_implementation`: all experts in 3-D tensors."""
    own = {name for name, _ in module.named_parameters(recurse=False)}
    return "down_proj" in own and bool({"gate_up_proj", "up_proj"} & own) and "is_transposed" in vars(module)


def experts_rule(call: Call) -> tuple[Tensor, Backward]:
    """Expert e: w · (down_e · act(up_e · a + bias) + bias) for every token a sent to it with weight w.

    Only the input is kept; the activations inside are computed again, one expert at a time.
    """
    module, batch, length, wanted = call.module, call.batch, call.length, call.wanted
    if module.has_post_expert_norm:
        raise UnsupportedUse("experts with a norm behind them")
    arguments: dict[str, Any] = {**dict(zip(_ARGUMENTS, call.args, strict=False)), **call.kwargs}
    hidden, index, weights = (arguments[name].detach() for name in _ARGUMENTS)
    if hidden.dim() != 2 or len(hidden) != batch * length:
        raise UnsupportedUse(f"experts called with an input of shape {tuple(hidden.shape)} for {batch} samples")

    def backward(delta: Tensor) -> Iterator[tuple[str, Contribution]]:
        parts: dict[str, list[Routed]] = {name: [] for name in wanted}
        for expert in index.unique().tolist():
            # An index past the last expert marks, under expert parallelism, a token that another device serves.
            if expert < module.num_experts:
                token, place = torch.where(index == expert)
                gradients = _of_expert(
                    module, expert, hidden[token], (delta[token] * weights[token, place, None]).to(delta.dtype)
                )
                where = token // length, torch.full_like(token, expert)
                for name in wanted:
                    parts[name].append(Routed(*where, *gradients[name]))
        for name, found in parts.items():
            if found:
                yield name, Routed.joined(found)

    return call.output, backward


def _of_expert(module: Any, expert: int, a: Tensor, delta: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By parameter: the two factors whose outer product is each token's gradient, flattened as the weight is.

    a: (tokens, hidden), the expert's input; delta: (tokens, hidden), the gradient of its output.
    """
    up_name = "gate_up_proj" if module.has_gate else "up_proj"
    up, down = getattr(module, up_name)[expert], module.down_proj[expert]
    up_bias = getattr(module, f"{up_name}_bias")[expert] if module.has_bias else None
    if module.is_transposed:
        up, down = up.mT, down.mT
    with torch.enable_grad():
        before = F.linear(a, up, up_bias).detach().requires_grad_()
        inside = module._apply_gate(before) if module.has_gate else module.act_fn(before)
    (delta_before,) = torch.autograd.grad(inside, before, (delta @ down).to(inside.dtype))
    factors = {up_name: (delta_before, a), "down_proj": (delta, inside.detach())}
    if module.is_transposed:
        factors = {name: (right, left) for name, (left, right) in factors.items()}
    one = a.new_ones(len(a), 1)
    return {**factors, f"{up_name}_bias": (delta_before, one), "down_proj_bias": (delta, one)}
