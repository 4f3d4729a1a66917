"""Content hashes of models and rows: the same bytes give the same hash, wherever they are stored."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn

from graceful_forgetting.runtime.hashes import fingerprint_json, new_hasher
from graceful_forgetting.runtime.progress import DELAY, progress_bar

# Values that JSON lacks (dates, bytes) are told apart by their Python form.
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=repr)
# Entries of a model's configuration that its logits do not depend on. Trainers set several of them.
_NOT_ARCHITECTURE = {
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "output_router_logits",
    "router_aux_loss_coef",
    "attn_implementation",
    "experts_implementation",
    "id2label",
    "label2id",
    "problem_type",
    "initializer_range",
}
# The shape of an adapter shows in the names and shapes of its parameters; these are what else its output depends on.
_ADAPTER = ("peft_type", "lora_alpha", "alpha_pattern", "r", "rank_pattern", "use_rslora", "use_dora")


def fingerprint_model(model: nn.Module) -> dict[str, Any]:
    """Architecture and content of a model's parameters, frozen ones and adapters included.

    Returns (JSON-able):
        `class`: name of the model's class; `model_type`: of its config (None where it has none);
        `num_parameters`: elements, tied weights once; `structure`: hash of every parameter's name, shape and
        type; `config`: hash of the entries of the model's and its adapters' configuration that the logits
        depend on (`rope_theta`, `num_attention_heads`, `lora_alpha`, ...), since equal weights can compute
        different functions; `weights`: hash of every parameter's bytes. The device does not matter.
    """
    structure, weights = new_hasher(), new_hasher()
    num_parameters = 0
    for name, parameter in model.named_parameters():
        shape, content = _content(parameter)
        structure.update(f"{name}|{shape}|{parameter.dtype}\n".encode())
        weights.update(name.encode())
        weights.update(content)
        num_parameters += parameter.numel()
    # Any nn.Module is accepted; only transformers models have a config.
    config = getattr(model, "config", None)
    return {
        "class": type(model).__name__,
        "model_type": getattr(config, "model_type", None),
        "num_parameters": num_parameters,
        "structure": structure.hexdigest(),
        "config": fingerprint_json(_architecture(model)),
        "weights": weights.hexdigest(),
    }


def _content(parameter: Tensor) -> tuple[tuple[int, ...], memoryview]:
    """Shape and bytes of a parameter; of 4-bit codes, two in a byte, their number and how often each occurs.

    On some processors bitsandbytes (0.50) puts the codes of a weight into another order and shape when it is first
    used. The state dict that would undo it spoils the weight's scales, so that none is made.
    """
    if parameter.dtype != torch.uint8:
        return tuple(parameter.shape), _bytes(parameter)
    codes = parameter.detach().flatten().long()
    counts = torch.bincount(codes & 15, minlength=16) + torch.bincount(codes >> 4, minlength=16)
    return (parameter.numel(),), _bytes(counts)


def _architecture(model: nn.Module) -> dict[str, Any]:
    # Any nn.Module is accepted; only transformers models have a config.
    config = getattr(model, "config", None)
    adapters = {}
    if isinstance(model, PeftModel):
        for name in model.active_adapters:
            settings = model.peft_config[name].to_dict()
            adapters[name] = {key: settings.get(key) for key in _ADAPTER}
    return {"model": None if config is None else _relevant(config.to_dict()), "adapters": adapters}


def _relevant(value: Any) -> Any:
    """`value` without entries that have no effect on the logits, at any depth, in the form that JSON gives it."""
    if isinstance(value, Mapping):
        kept = {str(key): entry for key, entry in value.items()}
        return {
            key: _relevant(entry)
            for key, entry in kept.items()
            if key not in _NOT_ARCHITECTURE and not key.endswith("_token_id")
        }
    if isinstance(value, list | tuple):
        return [_relevant(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes, types and bytes of `tensors`, whatever their order."""
    hasher = new_hasher()
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}\n".encode())
        hasher.update(_bytes(tensor))
    return hasher.hexdigest()


def fingerprint_rows(rows: Dataset | Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Hash of the values of `columns` (default: all), row by row.

    File path, Arrow chunking and cache history do not matter; the order of rows does, that of columns does
    not. Raises `KeyError` for a column that is not there.
    """
    if isinstance(rows, Dataset):
        rows = rows.with_format(None)
        if columns is not None:
            missing = sorted(set(columns) - set(rows.column_names))
            if missing:
                raise KeyError(f"columns {missing} are not in the data set (there are {rows.column_names})")
            rows = rows.select_columns(list(columns))
    hasher = new_hasher()
    total = len(rows) if isinstance(rows, Dataset) else None
    for row in progress_bar("hashing rows", "rows", total, iterable=_each(rows), delay=DELAY):
        chosen = row if columns is None else {column: row[column] for column in columns}
        hasher.update(_canonical(chosen))
        hasher.update(b"\n")
    return hasher.hexdigest()


def _each(rows: Dataset | Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    if not isinstance(rows, Dataset):
        return rows
    # A batch at a time: single rows take ten times as long to read.
    parts = rows.iter(batch_size=1000)
    return (dict(zip(part, values, strict=True)) for part in parts for values in zip(*part.values(), strict=True))


def _canonical(row: Mapping[str, Any]) -> bytes:
    return _ENCODER.encode(row).encode("utf-8", "surrogatepass")


def _bytes(tensor: Tensor) -> memoryview:
    # NumPy has no bfloat16, so every type is hashed as raw bytes.
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
