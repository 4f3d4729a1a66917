"""Values of fields, from a recipe, a command line or Python, checked against type and range before they are used.

TRL and transformers declare types and check few of them; the ranges of their fields that a run depends on are here.
"""

import math
import os
import re
import reprlib
import types
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields
from datetime import date
from enum import Enum
from functools import cache, wraps
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from graceful_forgetting.config.fields import mapping_of
from graceful_forgetting.runtime.nearest import did_you_mean
from graceful_forgetting.runtime.own_code import is_import_path
from graceful_forgetting.runtime.secrets import HIDDEN, is_secret, without_secret_values, without_secrets

T = TypeVar("T")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
_SHORT.maxlevel = 3

_COUNTS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "dataset_num_proc",
    "max_length",
    "save_total_limit",
    "eval_accumulation_steps",
    "dataloader_prefetch_factor",
    "torch_empty_cache_steps",
    "lora_r",
    "pad_to_multiple_of",
    "ddp_timeout",
    "ddp_bucket_cap_mb",
)
_NOT_NEGATIVE = (
    "dataloader_num_workers",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "eval_delay",
    "neftune_noise_alpha",
    "router_aux_loss_coef",
)
_ABOVE_0 = ("num_train_epochs", "adam_epsilon", "logging_steps", "save_steps", "eval_steps")
# Name of a field -> lowest and highest value, whether each of them is allowed, and both in words.
Range = tuple[float, float, bool, bool, str]
RANGES: dict[str, Range] = {
    **dict.fromkeys(_COUNTS, (1, math.inf, True, True, "a whole number of at least 1")),
    **dict.fromkeys(_NOT_NEGATIVE, (0, math.inf, True, True, "0 or more")),
    **dict.fromkeys(_ABOVE_0, (0, math.inf, False, True, "above 0")),
    **dict.fromkeys(("seed", "data_seed", "world_seed"), (0, 2**32 - 1, True, True, "from 0 to 2**32 - 1")),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), (0, 1, True, False, "from 0 to below 1")),
    "label_smoothing_factor": (0, 1, True, False, "from 0 (off) to below 1"),
    "max_steps": (-1, math.inf, True, True, "at least 1, or -1 to train for num_train_epochs"),
    # Its square is a factor in 32 bit.
    "confidence_step_size": (0, 1e18, False, True, "above 0 and at most 1e18"),
}
# Of these transformers takes none for unset, whatever their types say.
_NONE_TOO = ("debug",)
# Text of which TRL and transformers declare no choices, and which they read after other stages, or not at all.
CHOICES: dict[str, tuple[str, ...]] = {
    "ddp_backend": ("nccl", "gloo", "mpi", "ccl", "hccl", "cncl", "mccl", "xccl"),
    "log_level": ("debug", "info", "warning", "error", "critical", "passive"),
    "log_level_replica": ("debug", "info", "warning", "error", "critical", "passive"),
    "loss_type": ("nll", "dft", "chunked_nll"),
    "packing_strategy": ("bfd", "bfd_split", "bfd-requeue", "wrapped"),
    "truncation_mode": ("keep_start", "keep_end"),
    "train_sampling_strategy": ("random", "sequential", "group_by_length", "batch_rebalance"),
}
# Mappings that may stand in a file, by its path.
_IN_FILES = ("accelerator_config", "deepspeed", "fsdp_config")
# The largest number of 32 bit, which all that is computed with has to fit into.
_LARGEST = 3.4e38


def short(value: object) -> str:
    """The value as Python writes it, cut to a line, without credentials."""
    return without_secrets(_SHORT.repr(value))


def check_value(name: str, value: object, annotation: Any, text_is_read: bool = True) -> None:
    """Refuse a value that its field cannot have.

    Args:
        name: of the field, as the user typed it.
        value: from YAML, from the command line or from Python.
        annotation: the field's type.
        text_is_read: whether text counts as what it reads as (`1e-4` is text in YAML); not so in Python.

    Raises:
        ValueError: names the field, the value (cut) and what is valid.
    """
    if text_is_read:
        value = _as_typed(value, annotation)
    if not _fits(value, annotation):
        _check_finite(name, value)
        valid = _in_words(annotation) + _hint(value, annotation)
        shown = HIDDEN if is_secret(name) else short(without_secret_values(value))
        raise ValueError(f"{name}={shown} is not valid: it must be {valid}")
    if isinstance(value, str):
        _check_text(name, value, annotation)
    number = _number(value)
    bounds = RANGES.get(name)
    if number is not None and bounds is not None and not math.isnan(number):
        lowest, highest, with_lowest, with_highest, text = bounds
        above = number >= lowest if with_lowest else number > lowest
        below = number <= highest if with_highest else number < highest
        if not (above and below) or (name == "max_steps" and number == 0):
            raise ValueError(f"{name}={short(value)} is not valid: it must be {text}")
    _check_finite(name, value)


def checked_when_made(cls: type[T]) -> type[T]:
    """A class decorator for a dataclass of settings: its values are checked as those of a recipe are.

    NumPy's scalars become Python's, and paths text. Objects that a dataclass takes apart itself, as `AcceleratorConfig`
    is, are left to it.
    """
    generated, names = cls.__init__, [each.name for each in fields(cls) if each.init]  # type: ignore[arg-type]
    types_of = cache(lambda: get_type_hints(cls))

    @wraps(generated)
    def __init__(self: T, *positional: Any, **given: Any) -> None:
        for name in given:
            if name not in names:
                hint = did_you_mean(name, names, "`graceful fields` lists all")
                raise TypeError(f"{cls.__name__} has no setting {name!r}: {hint.rstrip()}")
        positional = tuple(_plain(value) for value in positional)
        given = {name: _plain(value) for name, value in given.items()}
        for name, value in (*zip(names, positional, strict=False), *given.items()):
            check_typed(name, value, types_of()[name])
        try:
            generated(self, *positional, **given)
        except (ValueError, TypeError, LookupError, ImportError) as error:
            everything = dict(zip(names, positional, strict=False)) | given
            refused = _refused(cls, generated, everything, error)
            if refused is None:
                raise
            raise ValueError(f"{refused}={short(everything[refused])} is not valid: {error}") from error

    cls.__init__ = __init__  # type: ignore[assignment, method-assign]
    return cls


def _refused(cls: type, make: Callable[..., None], given: dict[str, Any], error: Exception) -> str | None:
    """The setting without which an object can be made, where the error says in no words of ours which it is."""
    if isinstance(error, ValueError) and any(re.search(rf"\b{name}\b", str(error)) for name in given):
        return None
    changed = {each.name for each in fields(cls) if each.name in given and given[each.name] != each.default}
    for name in changed:
        with suppress(ValueError, TypeError, LookupError, ImportError):
            make(object.__new__(cls), **{other: value for other, value in given.items() if other != name})
            return name
    return None


def check_typed(name: str, value: object, annotation: Any) -> None:
    """As `check_value`, for a value from Python, where text is no number. Raises `ValueError`."""
    if (value is None and name not in _NONE_TOO) or isinstance(value, bool | int | float | str | list | dict):
        check_value(name, value, annotation, text_is_read=False)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _check_text(name: str, value: str, annotation: Any) -> None:
    choices = CHOICES.get(name)
    if choices is not None and value not in choices:
        raise ValueError(
            f"{name}={short(value)} is not valid: it must be one of {', '.join(choices)}{_nearest(value, choices)}"
        )
    if "\0" in value:
        raise ValueError(f"{name}={short(value)} is not valid: it holds the character NUL")
    kinds = [get_origin(kind) or kind for kind in _alternatives(annotation)]
    # Empty text turns DeepSpeed and FSDP off; the third is read as a path.
    named = value or name == "accelerator_config"
    if name in _IN_FILES and named and not value.lstrip().startswith("{"):
        if name != "fsdp_config" and not os.path.isfile(value):
            raise ValueError(f"{name}={short(value)} is not valid: there is no such file, and it is no JSON")
    elif dict in kinds and value:
        mapping_of(name, value)


def check_share_or_count(name: str, value: object) -> None:
    """Refuse what is neither a share in (0, 1] nor a whole number of at least 1. Raises `ValueError`."""
    if isinstance(value, float):
        valid, expected = 0 < value <= 1, "a share must be in (0, 1]"
    else:
        valid = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        expected = "it must be a share in (0, 1] or a whole number of samples of at least 1"
    if not valid:
        raise ValueError(f"{name}={short(value)} is not valid: {expected}")


def _check_finite(name: str, value: object) -> None:
    for part in _parts(value):
        # Infinity turns the guard off on a command line, which has no null.
        off = name == "guard_margin" and part == math.inf
        number = _number(part)
        if number is not None and not abs(number) <= _LARGEST and not off:
            raise ValueError(f"{name}={short(value)} is not valid: it must be a finite number of at most {_LARGEST}")


def _parts(value: object) -> list[object]:
    if isinstance(value, dict):
        return [part for item in value.values() for part in _parts(item)]
    if isinstance(value, list | tuple):
        return [part for item in value for part in _parts(item)]
    return [value]


def _number(value: object) -> float | None:
    """The value as a float where it is a number, else none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _as_typed(value: object, annotation: Any) -> object:
    """Text that reads as a number, or as true or false, where its field takes those and no text; else the value."""
    kinds = _alternatives(annotation)
    if not isinstance(value, str) or str in kinds:
        return value
    if bool in kinds and value.lower() in ("true", "false", "yes", "no", "t", "f", "y", "n", "1", "0"):
        return True
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _fits(value: object, annotation: Any) -> bool:
    kinds = _alternatives(annotation)
    names = _choices(annotation)
    if names is not None and isinstance(value, str):
        return value in names or (str in kinds and is_import_path(value))
    return any(_fits_one(value, kind) for kind in kinds)


def _fits_one(value: object, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind is type(None):
        return value is None
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    origin = get_origin(kind)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if origin is list or kind is list:
        (item,) = get_args(kind) or (Any,)
        return isinstance(value, list) and all(_fits_one(each, item) for each in value)
    if origin is dict or kind is dict:
        _, item = get_args(kind) or (Any, Any)
        return isinstance(value, dict) and all(_fits_one(each, item) for each in value.values())
    return isinstance(value, kind)


def _choices(annotation: Any) -> list[str] | None:
    """The names that a text may be one of; none where any text will do."""
    found: list[str] = []
    for kind in _alternatives(annotation):
        if get_origin(kind) is Literal:
            found += [choice for choice in get_args(kind) if isinstance(choice, str)]
        elif isinstance(kind, type) and issubclass(kind, Enum):
            found += [str(each.value) for each in kind]
    return found or None


def _in_words(annotation: Any) -> str:
    names = _choices(annotation)
    if names is not None:
        own = ", or an import path package.module:Name" if str in _alternatives(annotation) else ""
        return "one of " + ", ".join(names) + own
    words = [_word(kind) for kind in _alternatives(annotation) if kind is not type(None)]
    return " or ".join(dict.fromkeys(words))


def _word(kind: Any) -> str:
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind in plain:
        return plain[kind]
    origin = get_origin(kind) or kind
    if origin is list:
        items = {str: "text", int: "whole numbers"}.get((get_args(kind) or (Any,))[0], "values")
        return f"a list of {items}"
    if origin is dict:
        _, item = get_args(kind) or (Any, Any)
        return "a mapping of names to " + {float: "numbers", bool: "true or false"}.get(item, "values")
    return str(getattr(kind, "__name__", kind))


def _nearest(value: str, choices: Iterable[str]) -> str:
    hint = did_you_mean(value, choices)
    return f"; {hint.rstrip()}" if hint else ""


def _hint(value: object, annotation: Any) -> str:
    kinds = _alternatives(annotation)
    names = _choices(annotation)
    if names is not None:
        if value is False and "no" in names:
            return '; write "no" in quotation marks, since YAML reads it as false without'
        return _nearest(str(value), names)
    if isinstance(value, str) and _as_typed(value, annotation) is not value:
        return ": write it without quotation marks"
    if isinstance(value, str) and list[str] in kinds:
        return f": write [{value[:60]}]"
    if value is None:
        return "; leave the field out for its default"
    if str in kinds and isinstance(value, int | float) and not isinstance(value, bool):
        return f': write "{short(value)}" in quotation marks'
    if str in kinds and isinstance(value, bool | date):
        return ": write it in quotation marks, which YAML needs for a word that means true or false, or a date"
    return ""
