"""Recipes: flat fields and values, from a YAML file, from flags or from a grid, to the settings of a run."""

import argparse
import copy
import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from trl import TrlParser

from graceful_forgetting.config import LWFConfig, method_settings
from graceful_forgetting.config.values import check_value, short
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments
from graceful_forgetting.runtime.nearest import did_you_mean
from graceful_forgetting.runtime.yaml_file import read_mapping

RECIPE_CLASSES = (RunArguments, LWFConfig, ModelArguments)
Recipe = tuple[RunArguments, LWFConfig, ModelArguments]


class _Parser(TrlParser):
    """`TrlParser` whose errors are exceptions, in place of a page of usage and the end of the process."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:500]}; `graceful fields` lists what a field may be")


@cache
def _parser(classes: tuple[type, ...]) -> tuple[_Parser, list[tuple[argparse.Action, Any, bool]]]:
    """The parser of the classes, and of each action its own default and whether it is required.

    TRL takes 20 ms to build one. What it is used for sets other defaults, as `TrlParser.set_defaults_with_config` does.
    """
    parser = _Parser(classes, allow_abbrev=False)
    for action in parser._actions:
        # `check_value` names the nearest choice as well.
        action.choices = None
    return parser, [(action, action.default, action.required) for action in parser._actions]


@cache
def recipe_fields() -> frozenset[str]:
    """Names of all fields that a recipe may have."""
    return frozenset(_types(RECIPE_CLASSES))


@cache
def _types(classes: tuple[type, ...]) -> dict[str, Any]:
    """Field -> its type."""
    return {
        field.name: hints[field.name]
        for cls in classes
        for hints in [get_type_hints(cls)]
        for field in dataclasses.fields(cls)
        if field.init
    }


def parse_recipe(config: str | None, flags: Sequence[str]) -> Recipe:
    """A recipe from a YAML file and flags, which beat it; raises as `parse_fields` does."""
    return parse_fields(RECIPE_CLASSES, config, flags)


def parse_fields(classes: tuple[type, ...], config: str | None, flags: Sequence[str]) -> Any:
    """One object of each of the dataclasses, from a YAML file and flags, which beat it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a field that does not exist (names the nearest), or a value that is not valid.
    """
    content = {} if config is None else read_yaml(config)
    _set_environment(content.pop("env", None), f"--config {config}")
    known, flagged = _types(classes), []
    for flag in flags:
        if flag.startswith("--"):
            name = flag[2:].split("=", 1)[0].replace("-", "_")
            name = name.removeprefix("no_") if name not in known else name
            check_name(name, known, "the command line", "field", "`graceful fields` lists all.")
            flagged.append(name)
    return _made(classes, content, f"--config {config}", flags, flagged)


def check_field(name: str, value: Any, where: str) -> None:
    """Refuse a field that no recipe has, or a value that it cannot have. Raises `ValueError`, which names `where`."""
    known = _types(RECIPE_CLASSES)
    check_name(name, known, where, "field", "`graceful fields` lists all.")
    try:
        check_value(name, value, known[name])
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error


def recipe_from_fields(fields: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from names and values, read as those of a YAML file are; `where` names them in errors.

    Raises:
        ValueError: a field that does not exist (names the nearest), or a value that is not valid.
    """
    try:
        return _made(RECIPE_CLASSES, fields, where, [], [])
    except (ValueError, TypeError) as error:
        message = str(error)
        raise ValueError(message if where in message else f"{where}: {message}") from error


def _made(
    classes: tuple[type, ...], fields: Mapping[str, Any], where: str, flags: Sequence[str], flagged: Sequence[str]
) -> Any:
    """One object of each class, from `fields` of a file and from flags, whose names are `flagged`."""
    known = _types(classes)
    for name in fields:
        check_name(name, known, where, "field", "`graceful fields` lists all.")
    for name, value in fields.items():
        try:
            check_value(name, value, known[name])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    values = dict(fields)
    if "method" in known:
        method = _method(flags) or fields.get("method")
        values = {**method_settings(str(method), {*fields, *flagged}), **fields}
    parser, actions = _parser(classes)
    for action, default, required in actions:
        action.default = values.get(action.dest, copy.copy(default))
        action.required = required and action.dest not in fields
    given = vars(parser.parse_args(list(flags)))
    for name in flagged:
        check_value(name, given[name], known[name])
    try:
        return tuple(
            cls(**{field.name: given[field.name] for field in dataclasses.fields(cls) if field.init}) for cls in classes
        )
    except ValueError as error:
        # A field of the file that no flag beats.
        if any(f"{name}=" in str(error) for name in set(fields) - set(flagged)):
            raise ValueError(f"{where}: {error}") from error
        raise


def _set_environment(variables: object, where: str) -> None:
    """Set the environment variables that a recipe names under `env`."""
    if variables is None:
        return
    if not isinstance(variables, dict):
        raise ValueError(f"{where}: env={short(variables)} is not valid: it must be a mapping of names to values")
    os.environ.update({str(name): str(value) for name, value in variables.items()})


def _method(flags: Sequence[str]) -> str | None:
    """What the flags say of `method`; the parser itself sees whether that is valid."""
    for place, flag in enumerate(flags):
        if flag == "--method" and place + 1 < len(flags):
            return flags[place + 1]
        if flag.startswith("--method="):
            return flag.removeprefix("--method=")
    return None


def read_yaml(config: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file of `--config`; raises as `read_mapping` does."""
    return read_mapping(config, f"--config {config}")


def check_name(name: str, known: Collection[str], where: str, what: str, otherwise: str = "") -> None:
    """Raise `ValueError` for a name that is not known, with the nearest one, else with `otherwise`."""
    if name not in known:
        hint = did_you_mean(name, known, otherwise or f"there are: {', '.join(sorted(known))}.")
        raise ValueError(f"unknown {what} {name!r} in {where}: {hint.rstrip()}")
