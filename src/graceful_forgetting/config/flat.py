"""The flat settings, derived from the stage classes, and the stage classes made from them again."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, fields, make_dataclass
from functools import wraps
from textwrap import fill
from typing import Any, TypeVar

T = TypeVar("T")


def flat_settings(stages: Mapping[str, type]) -> type:
    """A dataclass with each field of the stage classes under a prefix: name, type, default and help text.

    A stage's `seed` has no field of its own: it is that of the run.

    Args:
        stages: prefix -> stage class (a dataclass whose fields all have a plain default).
    """
    derived = [
        (prefix + each.name, each.type, field(default=each.default, metadata=dict(each.metadata)))
        for prefix, stage in stages.items()
        for each in fields(stage)
        if each.name != "seed"
    ]
    return make_dataclass("StageSettings", derived, namespace={"__module__": __name__})


def stage_config(settings: Any, stage: type[T], prefix: str, **changes: Any) -> T:
    """The stage class made from the flat settings; `changes` (names of the stage's fields) beat them.

    Raises:
        ValueError: as the stage class does, with each field under its flat name.
    """
    values = {name: getattr(settings, prefix + name) for name in _own_names(stage)}
    with flat_names({prefix: stage}):
        return stage(**{**values, "seed": settings.seed, **changes})


def _own_names(stage: type) -> list[str]:
    return [each.name for each in fields(stage) if each.name != "seed"]


@contextmanager
def flat_names(stages: Mapping[str, type]) -> Iterator[None]:
    """Inside the block (or the function that it decorates), a `ValueError` names each field as the flat settings do.

    `stages`: prefix -> stage class; of a name that several have, the first counts.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        message = str(error)
        for prefix, stage in stages.items():
            # A name that is an English word as well (fraction) is one only where a value follows.
            names = "|".join(name if "_" in name else rf"{name}(?=[=\[])" for name in _own_names(stage))
            message = re.sub(rf"(?<![\w'.])(?:{names})(?!\w)", rf"{prefix}\g<0>", message)
        raise ValueError(message) from error


def documented(inherited: type) -> Any:
    """A class decorator: the docstring gets an entry for each setting that `inherited` does not have, from its help."""
    known = {each.name for each in fields(inherited)}

    def decorate(cls: type[T]) -> type[T]:
        entries = [
            fill(
                f"{each.name} (default {each.default!r}): {each.metadata['help']}",
                width=120,
                initial_indent=" " * 8,
                subsequent_indent=" " * 12,
                break_on_hyphens=False,
            )
            for each in fields(cls)  # type: ignore[arg-type]
            if each.name not in known
        ]
        text, raises, errors = (cls.__doc__ or "").partition("    Raises:")
        cls.__doc__ = "\n".join([f"{text}    Args:", *entries, "", f"{raises}{errors}"])
        return cls

    return decorate


def starting_from(method_settings: Callable[[str | None, Collection[str]], Mapping[str, Any]]) -> Any:
    """A class decorator: the settings of `method` take the place of the defaults; everything that is given beats them.

    Args:
        method_settings: of a method's name and the names of what is given, the settings to start from.
    """

    def decorate(cls: type[T]) -> type[T]:
        generated = cls.__init__

        @wraps(generated)
        def __init__(self: T, *positional: Any, **given: Any) -> None:
            settings = method_settings(given.get("method"), given)
            generated(self, *positional, **{**settings, **given})

        cls.__init__ = __init__  # type: ignore[assignment, method-assign]
        return cls

    return decorate
