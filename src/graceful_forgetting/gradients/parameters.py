"""Which parameters a posterior covers, and the values that they have in a model."""

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from graceful_forgetting.config import Covered, ParameterSpace

_BLOCK = re.compile(r"^(?P<list>.*?)\.(?P<index>\d+)\.")


def covered_parameters(model: nn.Module, covered: Covered) -> dict[str, nn.Parameter]:
    """The parameters, by `named_parameters()` name, that a posterior of these settings covers.

    Args:
        model: as it is trained: full, or with its LoRA adapter.
        covered: a space ('trainable': those that require a gradient; 'merged': the dense weights of the modules that a
            LoRA adapter targets, in place of the adapter's factors), narrowed as in `matching_names`.

    Raises:
        ValueError: no parameter is left; 'merged' for a model without LoRA, or with a variant of it (DoRA)
            whose weight is no sum of the base weight and the adapter's.
    """
    names = unrestricted_names(model, covered.space)
    if not names:
        raise ValueError("the model has no parameter that requires a gradient; unfreeze what is to be trained")
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in matching_names(names, covered.pattern, covered.last_blocks)}


def unrestricted_names(model: nn.Module, space: ParameterSpace) -> list[str]:
    """The names of all parameters of a space, in the model's order; may be empty. Raises as `covered_parameters`."""
    parameters = dict(model.named_parameters())
    if space == "merged":
        layers = _adapted_layers(model)
        factors = {
            id(parameter)
            for layer in layers.values()
            for parameter in set(layer.parameters()) - set(layer.base_layer.parameters())
        }
        return [name for name, p in parameters.items() if name in layers or (p.requires_grad and id(p) not in factors)]
    return [name for name, parameter in parameters.items() if parameter.requires_grad]


def matching_names(names: Iterable[str], pattern: str | None = None, last_blocks: int | None = None) -> list[str]:
    """The names in which `pattern` is found and which belong to the last `last_blocks` transformer blocks.

    Blocks are told by the first number in a name (`model.layers.3.mlp.up_proj.weight` is of block 3).

    Raises:
        ValueError: none is left; names without numbered blocks, or with fewer than `last_blocks`.
    """
    names = list(names)
    kept = names if pattern is None else [name for name in names if re.search(pattern, name)]
    if not kept:
        raise ValueError(f"parameters='pattern:{pattern}' matches no parameter; they are named like {names[0]}")
    if last_blocks is None:
        return kept
    blocks: dict[str, set[int]] = {}
    for found in map(_BLOCK.match, names):
        if found:
            blocks.setdefault(found["list"], set()).add(int(found["index"]))
    if not blocks:
        raise ValueError(
            f"parameters='last_blocks:{last_blocks}': the parameters have no numbered blocks; use 'trainable'"
        )
    list_name = max(blocks, key=lambda name: len(blocks[name]))
    indices = sorted(blocks[list_name])
    if last_blocks > len(indices):
        raise ValueError(
            f"parameters='last_blocks:{last_blocks}' is not valid: {list_name} has {len(indices)} blocks with "
            "parameters"
        )
    wanted = set(indices[-last_blocks:])
    in_blocks = []
    for name in kept:
        found = _BLOCK.match(name)
        if found and found["list"] == list_name and int(found["index"]) in wanted:
            in_blocks.append(name)
    if not in_blocks:
        raise ValueError(f"last_blocks={last_blocks} and pattern={pattern!r} together leave no parameter")
    return in_blocks


def lowest_precision(model: nn.Module) -> torch.dtype:
    """The coarsest type that the model computes in; bfloat16 where weights are kept as integers (quantised)."""
    kinds = {parameter.dtype for parameter in model.parameters()}
    floating = {kind for kind in kinds if kind.is_floating_point}
    if floating != kinds:
        floating.add(torch.bfloat16)
    return max(floating, key=lambda kind: torch.finfo(kind).eps)


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite. Of the tensor's size nothing is made."""
    # NaN is the least and the largest wherever it occurs.
    return not tensor.numel() or bool(torch.stack(tensor.detach().aminmax()).isfinite().all())


class ParameterValues(Mapping[str, Tensor]):
    """What each of the parameters `names` is worth in the model, on its device: float32, made when asked for.

    The dense weight under an active LoRA adapter counts with the adapter's part, so that it is the weight
    that the module multiplies with.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        wanted = set(names)
        self.parameters = {name: p for name, p in model.named_parameters() if name in wanted}
        self._layers = {name: layer for name, layer in _lora_layers(model).items() if name in wanted}

    def __getitem__(self, name: str) -> Tensor:
        """Shape of the parameter; not to be written to."""
        value = self.parameters[name].detach().float()
        delta = self.adapter_part(name)
        return value if delta is None else value + delta

    @torch.no_grad()
    def adapter_part(self, name: str) -> Tensor | None:
        """What the active adapters add to a dense weight, float32; none where there are none."""
        layer = self._layers.get(name)
        if layer is None or layer.disable_adapters or layer.merged:
            return None
        adapters = [adapter for adapter in layer.active_adapters if adapter in layer.scaling]
        deltas = [layer.get_delta_weight(adapter).float() for adapter in adapters]
        return torch.stack(deltas).sum(dim=0) if deltas else None

    def __iter__(self) -> Iterator[str]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)


def _lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    return {
        f"{name}.base_layer.weight": module for name, module in model.named_modules() if isinstance(module, LoraLayer)
    }


def _adapted_layers(model: nn.Module) -> dict[str, LoraLayer]:
    layers = _lora_layers(model)
    if not layers:
        raise ValueError("parameters='merged' is for models with a LoRA adapter; use 'trainable'")
    parameters = dict(model.named_parameters())
    for name, layer in layers.items():
        if any(layer.use_dora.values()):
            raise ValueError(f"parameters='merged' does not cover DoRA ({name}); use 'trainable'")
        if name not in parameters:
            raise ValueError(
                f"parameters='merged' needs {name}, which is tied to another parameter or is none; use "
                "'trainable', or leave that module out of the adapter's target_modules"
            )
    return layers
