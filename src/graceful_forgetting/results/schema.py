"""Dataclasses as JSON values and back, read strictly: every error names the field by its path."""

import dataclasses
import functools
import math
import types
from collections.abc import Collection
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_ADDED = "added"
# Archives are thousands of objects of a few classes.
_hints = functools.cache(get_type_hints)
_parts = functools.cache(lambda hint: (get_origin(hint), get_args(hint)))


@functools.cache
def _plain(hint: Any) -> frozenset[Any]:
    """The types of which a value is taken as it is: int of int, float and None of float | None."""
    origin, arguments = _parts(hint)
    return frozenset(arguments if origin in (Union, types.UnionType) else [hint])


def added(default: Any) -> Any:
    """A dataclass field that files of the same schema version may lack, being older; it then has `default`."""
    return dataclasses.field(default=default, metadata={_ADDED: True})


def json_values(value: Any, digits: int | None = None) -> Any:
    """JSON values: a number that is not finite becomes null. `digits`: significant ones that stay; None = all."""
    if isinstance(value, dict):
        return {str(key): json_values(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item, digits) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    return value


def dataclass_from_plain(cls: type[T], value: Any, where: str) -> T:
    """Build dataclass `cls` from a dict of JSON values, nested dataclasses included.

    `where` is the path of `value` as error messages name it. A field that was `added` later may be missing. Raises
    `ValueError` for any other missing field, for an unknown one and for a value of the wrong type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {type(value).__name__}")
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [field.name for field in fields]
    for field in fields:
        if field.name not in value and _ADDED not in field.metadata:
            raise ValueError(f"field {where}.{field.name} is missing")
    for name in value:
        if name not in names:
            raise ValueError(f"field {where}.{name} is unknown; known: {', '.join(names)}")
    hints = _hints(cls)  # type: ignore[arg-type]
    return cls(**{name: _convert(hints[name], value[name], f"{where}.{name}") for name in names if name in value})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if type(value) is hint:
        return value
    origin, arguments = _parts(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        (inner,) = [argument for argument in arguments if argument is not types.NoneType]
        return _convert(inner, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where}={value!r} is not valid: it must be one of {', '.join(arguments)}")
        return value
    if origin is list:
        _require(isinstance(value, list), where, value, "a list")
        if _as_they_are(arguments[0], value):
            return list(value)
        return [_convert(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value)]
    if origin is dict:
        _require(isinstance(value, dict), where, value, "an object")
        if _as_they_are(arguments[1], value.values()):
            return dict(value)
        return {key: _convert(arguments[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return dataclass_from_plain(hint, value, where)  # type: ignore[arg-type]
    if hint is float:
        _require(isinstance(value, int | float) and not isinstance(value, bool), where, value, "a number")
        return float(value)
    # bool is a subclass of int, and a count must not read as true or false.
    _require(isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), where, value, hint.__name__)
    return value


def _as_they_are(hint: Any, items: Collection[Any]) -> bool:
    """Whether all are what they must be, so that no path of any is needed; most files are long lists of numbers."""
    plain = _plain(hint)
    return hint is Any or all(type(item) in plain for item in items)


def _require(condition: bool, where: str, value: Any, expected: str) -> None:
    if not condition:
        raise ValueError(f"{where}={value!r} is not valid: it must be {expected}")
