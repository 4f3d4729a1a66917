"""Building blocks of the settings: a field with its help text, and the checks of a value."""

from dataclasses import MISSING, field, fields
from typing import Any


def setting(default: Any, help: str) -> Any:
    """A dataclass field whose meaning is `help`, one or more whole sentences."""
    return field(default=default, metadata={"help": help})


def taken_from(config: type, name: str, default: Any = MISSING) -> Any:
    """A field with the default (unless another is given) and the help text of `config`'s field `name`."""
    source = next(f for f in fields(config) if f.name == name)
    return field(default=source.default if default is MISSING else default, metadata=dict(source.metadata))


def help_of(config: type, name: str) -> str:
    """The help text of a field."""
    return str(next(f for f in fields(config) if f.name == name).metadata["help"])


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise `ValueError` naming the field, its value and what is expected, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name}={value!r} is not valid: it must be {expected}")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise `ValueError` listing `choices` unless `value` is one of them."""
    require(value in choices, name, value, "one of " + ", ".join(choices))
