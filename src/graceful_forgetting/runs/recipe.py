"""Recipes: flat fields and values, from a YAML file, from flags or from a grid, to the settings of a run."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from trl import TrlParser

from graceful_forgetting.config import LWFConfig, method_settings
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments

RECIPE_CLASSES = (RunArguments, LWFConfig, ModelArguments)
Recipe = tuple[RunArguments, LWFConfig, ModelArguments]


@cache
def recipe_fields() -> frozenset[str]:
    """Names of all fields that a recipe may have."""
    return frozenset(field.name for cls in RECIPE_CLASSES for field in dataclasses.fields(cls) if field.init)


def parse_recipe(config: str | None, flags: Sequence[str]) -> Recipe:
    """A recipe from a YAML file and flags, which beat it; raises as `parse_fields` does."""
    return parse_fields(RECIPE_CLASSES, config, flags)


def parse_fields(classes: tuple[type, ...], config: str | None, flags: Sequence[str]) -> Any:
    """One object of each of the dataclasses, from a YAML file and flags, which beat it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a field that does not exist (names the nearest), or a value that is not valid.
    """
    known = {field.name for cls in classes for field in dataclasses.fields(cls) if field.init}
    in_file = {} if config is None else read_yaml(config)
    for name in in_file:
        check_name(name, known | {"env"}, f"--config {config}", "field", "`graceful fields` lists all.")
    given = set(in_file)
    for flag in flags:
        if flag.startswith("--"):
            name = flag[2:].split("=", 1)[0].replace("-", "_")
            name = name.removeprefix("no_") if name not in known else name
            check_name(name, known, "the command line", "field", "`graceful fields` lists all.")
            given.add(name)
    arguments = [*(["--config", config] if config is not None else []), *flags]
    parser = TrlParser(classes, allow_abbrev=False)
    if "method" in known:
        parser.set_defaults(**method_settings(_method(in_file, flags), given))
    try:
        return parser.parse_args_and_config(arguments)
    except SystemExit as error:
        raise ValueError("the fields above are not valid; `graceful fields` lists them") from error


def recipe_from_fields(fields: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from names and values, read as those of a YAML file are; `where` names them in errors.

    Raises:
        ValueError: a field that does not exist (names the nearest), or a value that is not valid.
    """
    for name in fields:
        check_name(name, recipe_fields(), where, "field", "`graceful fields` lists all.")
    parser = TrlParser(RECIPE_CLASSES, allow_abbrev=False)
    parser.set_defaults(**method_settings(fields.get("method"), fields))
    parser.set_defaults_with_config(**fields)
    try:
        return parser.parse_args_into_dataclasses(args=[])
    except SystemExit as error:
        raise ValueError(f"{where}: the fields above are not valid; `graceful fields` lists them") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _method(in_file: Mapping[str, Any], flags: Sequence[str]) -> str | None:
    """What the flags, or else the file, say of `method`; the parser itself sees whether that is valid."""
    for place, flag in enumerate(flags):
        if flag == "--method" and place + 1 < len(flags):
            return flags[place + 1]
        if flag.startswith("--method="):
            return flag.removeprefix("--method=")
    return in_file.get("method")


def read_yaml(config: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `FileNotFoundError`, or `ValueError` where it is something else."""
    path = Path(config)
    if not path.is_file():
        raise FileNotFoundError(f"--config {config}: there is no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"--config {config} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--config {config} must hold fields and values (`learning_rate: 1e-4`)")
    return {str(name): value for name, value in content.items()}


def check_name(name: str, known: Collection[str], where: str, what: str, otherwise: str = "") -> None:
    """Raise `ValueError` for a name that is not known, with the nearest one, else with `otherwise`."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else otherwise or f"there are: {', '.join(sorted(known))}."
        raise ValueError(f"unknown {what} {name!r} in {where}: {hint}")
