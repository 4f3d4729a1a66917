"""Grid files of a sweep: read strictly, and checked before any cell runs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from graceful_forgetting.runs.recipe import check_field, check_name, read_yaml
from graceful_forgetting.sweeps.cell import CellArm
from graceful_forgetting.sweeps.grid import MIXED, Grid, Method, Rounds, trials_of

# Recipe fields that the grid decides itself.
_OWN_FIELDS = {
    "world": "worlds",
    "learning_task": "learning",
    "forgetting_tasks": "forgetting",
    "seed": "seeds",
    "num_seeds": "seeds",
    "output_dir": "output_dir of the grid",
}
_NAME = re.compile(r"[\w.+=@-]+")
_MAX_NAME = 100
_KEYS = {
    "name", "output_dir", "base", "worlds", "learning", "forgetting", "methods", "settings", "seeds",
    "validation_seeds", "tune", "tune_together", "reference_seed", "evaluate_every", "curve_rows", "keep_models",
}  # fmt: skip


def load_grid(config: str) -> Grid:
    """Read and check a grid file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: names the file, the key, its value and the fix.
    """
    content = read_yaml(config)
    try:
        return _read(content, config)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if config in message else f"--config {config}: {message}") from error


def _read(content: Mapping[str, Any], config: str) -> Grid:
    for key in content:
        check_name(key, _KEYS, f"--config {config}", "key")
    name = _valid_name("name", content.get("name", Path(config).stem))
    worlds = "worlds" in content
    if worlds == ("learning" in content):
        raise ValueError(f"--config {config}: give either worlds or learning, the tasks to learn")
    methods = [_method(str(key), value) for key, value in _mapping(content, "methods").items()]
    if not methods:
        raise ValueError(f"--config {config}: methods is empty: name at least one, such as `plain: {{arm: plain}}`")
    names = [method.name for method in methods]
    base, settings = _mapping(content, "base"), _mapping(content, "settings") or {"default": {}}
    for where, fields in {"base": base, **{f"settings.{key}": value for key, value in settings.items()}}.items():
        _check_fields(fields or {}, where)
    tune, like = _tuning(_mapping(content, "tune"), names)
    grid = Grid(
        name=name,
        output_dir=_text(content, "output_dir", f"runs/sweeps/{name}"),
        base=base,
        worlds=worlds,
        learning=_axis("worlds" if worlds else "learning", content["worlds" if worlds else "learning"]),
        forgetting=_forgetting(content.get("forgetting", [MIXED] if worlds else None)),
        methods=methods,
        settings={_valid_name("settings", str(key)): value or {} for key, value in settings.items()},
        seeds=_seeds("seeds", content.get("seeds", [0])),
        validation_seeds=_seeds("validation_seeds", content.get("validation_seeds", [])),
        tune=tune,
        like=like,
        tune_together=_flag("tune_together", content.get("tune_together", False)),
        reference_seed=None if content.get("reference_seed") is None else _whole(content, "reference_seed", 0, 0),
        evaluate_every=_whole(content, "evaluate_every", 25, 1),
        curve_rows=_whole(content, "curve_rows", 200, 1),
        keep_models=_flag("keep_models", content.get("keep_models", False)),
    )
    _check_together(grid, config)
    return grid


def _check_together(grid: Grid, config: str) -> None:
    for setting, fields in grid.settings.items():
        for method in grid.methods:
            tuned = {name for values in grid.tune.get(method.name, []) for name in values}
            both = sorted(set(fields) & (set(method.fields) | tuned))
            if both:
                raise ValueError(
                    f"{', '.join(both)} is set by methods.{method.name} and by settings.{setting}, and neither beats "
                    "the other: keep it in one of them"
                )
    if grid.tune and not grid.validation_seeds:
        raise ValueError(f"--config {config}: tune needs validation_seeds, which the final cells do not use")
    shared = sorted(set(grid.seeds) & set(grid.validation_seeds))
    if shared:
        raise ValueError(f"seeds and validation_seeds share {shared}: settings are chosen on seeds that no table uses")
    if not list(grid.combinations()):
        raise ValueError(f"--config {config}: no cell is left: each forgetting set holds the learning task itself")


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{key}={value!r} is not valid: it must map names to values")
    return {str(name): item for name, item in value.items()}


def _check_fields(fields: Any, where: str) -> None:
    if not isinstance(fields, dict):
        raise ValueError(f"{where}={fields!r} is not valid: it must map recipe fields to values")
    for name, value in fields.items():
        if name in _OWN_FIELDS:
            raise ValueError(f"{name} in {where} is decided by the grid: use {_OWN_FIELDS[name]}")
        check_field(str(name), value, where)


def _method(name: str, value: Any) -> Method:
    fields = dict(value) if isinstance(value, dict) else {} if value is None else value
    if not isinstance(fields, dict):
        raise ValueError(f"methods.{name}={value!r} is not valid: it must map recipe fields to values")
    arm = fields.pop("arm", "lwf")
    if arm not in get_args(CellArm):
        raise ValueError(f"methods.{name}.arm={arm!r} is not valid: it must be one of {', '.join(get_args(CellArm))}")
    _check_fields(fields, f"methods.{name}")
    return Method(_valid_name("methods", name), arm, fields)


def _valid_name(key: str, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or set(name) == {"."} or len(name) > _MAX_NAME:
        raise ValueError(
            f"{key}: the name {name!r} is not valid: use up to {_MAX_NAME} letters, digits and any of _ . + = @ -"
        )
    return name


def _axis(key: str, value: Any) -> dict[str, str]:
    if isinstance(value, list):
        value = {Path(str(item)).stem: item for item in value}
    if not isinstance(value, dict) or not value or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"{key}={value!r} is not valid: it must be a list of names, or map short names to paths")
    return {_valid_name(key, str(name)): item for name, item in value.items()}


def _forgetting(value: Any) -> dict[str, list[str] | str]:
    if isinstance(value, list):
        value = {Path(str(item)).stem: item if item == MIXED else [item] for item in value}
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"forgetting={value!r} is not valid: it must be a list of tasks, or map names to lists of them"
        )
    found: dict[str, list[str] | str] = {}
    for name, tasks in value.items():
        listed = tasks if tasks == MIXED or isinstance(tasks, list) else [tasks]
        if not listed or not all(isinstance(task, str) for task in listed):
            raise ValueError(f"forgetting.{name}={tasks!r} is not valid: it must be a list of tasks, or {MIXED}")
        found[_valid_name("forgetting", str(name))] = listed
    return found


def _seeds(key: str, value: Any) -> list[int]:
    if not isinstance(value, list):
        raise ValueError(f"{key}={value!r} is not valid: it must be a list of whole numbers")
    for seed in value:
        check_field("seed", seed, key)
    if len(set(value)) < len(value) or (key == "seeds" and not value):
        raise ValueError(f"{key}={value!r} is not valid: it must name every seed once, and at least one")
    return value


def _text(content: Mapping[str, Any], key: str, default: str) -> str:
    value = content.get(key, default)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}={value!r} is not valid: it must be text")
    return value


def _whole(content: Mapping[str, Any], key: str, default: int, least: int) -> int:
    value = content.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{key}={value!r} is not valid: it must be a whole number of at least {least}")
    return value


def _flag(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key}={value!r} is not valid: it must be true or false")
    return value


def _tuning(content: Mapping[str, Any], methods: list[str]) -> tuple[dict[str, Rounds], dict[str, str]]:
    """Rounds of values to try by method, and methods that take the choice of another."""
    tune: dict[str, Rounds] = {}
    like: dict[str, str] = {}
    for name, value in content.items():
        check_name(name, methods, "tune", "method")
        if isinstance(value, str):
            like[name] = value
            continue
        rounds = value if isinstance(value, list) else [value]
        if not rounds:
            raise ValueError(f"tune.{name}=[] is not valid: give at least one round, as `learning_rate: [1e-4, 2e-4]`")
        for values in rounds:
            if not isinstance(values, dict):
                raise ValueError(f"tune.{name}={values!r} is not valid: it must map recipe fields to values")
            for field_name, tried in values.items():
                if not isinstance(tried, list) or not tried:
                    raise ValueError(f"tune.{name}.{field_name}={tried!r} is not valid: it must be a list of values")
                for one in tried:
                    _check_fields({field_name: one}, f"tune.{name}")
        tune[name] = rounds
    for name, other in like.items():
        if other not in tune:
            raise ValueError(f"tune.{name}={other!r} is not valid: it must name a method that is tuned itself")
    counts = {name: sum(len(trials_of(values)) for values in rounds) for name, rounds in tune.items()}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise ValueError(
            f"tune gives the methods different numbers of trials ({shown}): a fair choice gives all the same"
        )
    return tune, like
