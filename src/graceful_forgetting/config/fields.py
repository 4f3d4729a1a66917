"""Building blocks of the settings: a field with its help text, and the checks of a value."""

import json
from dataclasses import field
from typing import Any

from graceful_forgetting.runtime.own_code import import_path, imported, is_import_path


def setting(default: Any, help: str) -> Any:
    """A dataclass field whose meaning is `help`, one or more whole sentences."""
    return field(default=default, metadata={"help": help})


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise `ValueError` naming the field, its value and what is expected, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name}={value!r} is not valid: it must be {expected}")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` listing `choices` unless `value` is one of them."""
    require(value in choices, name, value, "one of " + ", ".join(choices))


def part_named(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of `choices`, or the import path `package.module:Name` of a part of the user's own, which is imported.

    Args:
        value: a name, a path, or the class or function itself.

    Raises:
        ValueError: names the field, its value and what is valid.
    """
    value = import_path(name, value)
    if is_import_path(value):
        imported(name, value)
    else:
        require(value in choices, name, value, f"one of {', '.join(choices)}, or an import path package.module:Name")
    return str(value)


def mapping_of(name: str, value: object) -> dict[str, Any]:
    """The mapping that a field holds, as such or as JSON (as a command line gives it); empty for none.

    Raises:
        ValueError: names the field.
    """
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text, object_pairs_hook=_distinct, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}={text[:60]!r} is not valid JSON: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name}={value!r} is not valid: it must be a mapping of names to values")
    return {str(key): item for key, item in value.items()}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


def _finite(constant: str) -> float:
    raise ValueError(f"{constant} is no finite number")
