"""The grid of a sweep: read strictly from YAML, and laid out as cells."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from graceful_forgetting.runs.recipe import check_field, check_name, read_yaml
from graceful_forgetting.runtime.fingerprint import fingerprint_json
from graceful_forgetting.sweeps.cell import CellArm, CellRole, CellSplit

MIXED = "mixed"
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
_MAX_NAME, _MAX_VALUE = 100, 40
# Field -> values to try, of each round of tuning.
Rounds = list[dict[str, list[Any]]]


@dataclass(frozen=True)
class Method:
    """One row of the comparison: which arm, and the recipe fields in which it differs from the base."""

    name: str
    arm: CellArm
    fields: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training run of a sweep: where it is in the grid and the recipe fields that make it.

    Attributes:
        trial: field -> value that is being tried, in the validation split, with what earlier rounds have chosen.
    """

    sweep: str
    learning: str
    forgetting: str
    setting: str
    method: str
    arm: CellArm
    role: CellRole | None
    seed: int
    split: CellSplit
    position: tuple[int, int]
    fields: dict[str, Any]
    trial: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Of the cell inside the sweep's."""
        top = "cells" if self.split == "final" else "validation"
        method = "+".join([self.method, *(f"{name}={_as_name(value)}" for name, value in self.trial.items())])
        return Path(top, self.learning, self.forgetting, self.setting, method, f"seed-{self.seed}")

    @property
    def combination(self) -> str:
        """Learning task, forgetting set and setting as one name."""
        return f"{self.learning}/{self.forgetting}/{self.setting}"


@dataclass(frozen=True)
class Grid:
    """A sweep as its file says it; see `docs/sweeps.md` for every key.

    Attributes:
        worlds: whether `learning` names worlds.
        learning: name -> task or world.
        forgetting: name -> task names, `mixed` for all (of a world) or all but the learning task.
        methods, settings: in the order of the file.
        seeds: of the final cells. validation_seeds: of the trials.
        tune: method -> its rounds of values to try; `like`: method -> method whose chosen values it takes.
        tune_together: one choice for all combinations, else one for each.
        reference_seed: the seed whose reference run, posterior and scores all cells use; none: each its own.
        evaluate_every, curve_rows: learning updates between points of the learning curve, test rows of each point.
        keep_models: keep the weights of every cell, else only those of runs without forgetting, which cells share.
    """

    name: str
    output_dir: str
    base: dict[str, Any]
    worlds: bool
    learning: dict[str, str]
    forgetting: dict[str, list[str] | str]
    methods: list[Method]
    settings: dict[str, dict[str, Any]]
    seeds: list[int]
    validation_seeds: list[int]
    tune: dict[str, Rounds]
    like: dict[str, str]
    tune_together: bool
    reference_seed: int | None
    evaluate_every: int
    curve_rows: int
    keep_models: bool

    @property
    def roles(self) -> dict[str, CellRole]:
        """Method -> what it is compared as: the first of each arm, and the first that selects at random."""
        roles: dict[str, CellRole] = {}
        for method in self.methods:
            at_random = method.arm == "lwf" and method.fields.get("forget_strategy") == "random"
            role: CellRole | None = "random" if at_random else None if method.arm == "lwf" else method.arm
            if role is not None and role not in roles.values():
                roles[method.name] = role
        return roles

    def combinations(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """(learning, forgetting, setting, recipe fields of these three and the base)."""
        for learning, task in self.learning.items():
            for forgetting, chosen in self.forgetting.items():
                what = self._what(task, chosen)
                if what is None:
                    continue
                for setting, fields in self.settings.items():
                    yield learning, forgetting, setting, {**self.base, **what, **fields}

    def _what(self, task: str, chosen: list[str] | str) -> dict[str, Any] | None:
        if self.worlds:
            return {"world": task} if chosen == MIXED else {"world": task, "forgetting_tasks": chosen}
        if chosen == MIXED:
            named = [name for names in self.forgetting.values() if names != MIXED for name in names]
            chosen = [name for name in dict.fromkeys(named) if name != task]
        # Forgetting the learning task itself is no cell of the matrix.
        return None if task in chosen or not chosen else {"learning_task": task, "forgetting_tasks": chosen}

    def cells(self, chosen: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Cell]:
        """The final cells; `chosen`: combination -> method -> tuned fields.

        Cells that need the same stages stand apart, so that runs at the same time seldom wait for each other.
        """
        found = []
        for (learning, forgetting, setting, fields), method in itertools.product(self.combinations(), self.methods):
            for seed in self.seeds:
                cell = self._cell(learning, forgetting, setting, fields, method, seed, "final")
                tuned = chosen.get(cell.combination, {}).get(method.name, {})
                found.append(replace(cell, fields={**cell.fields, **tuned}))
        return found

    @property
    def rounds(self) -> int:
        """Rounds of tuning."""
        return max((len(rounds) for rounds in self.tune.values()), default=0)

    def trials(self, number: int, chosen: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Cell]:
        """The cells of the validation split of one round: every value that is tried, on every validation seed.

        `chosen` is what earlier rounds have chosen, as in `cells`.
        """
        found = []
        for (learning, forgetting, setting, fields), method in itertools.product(self.combinations(), self.methods):
            for tried in self.tried(method.name, number):
                for seed in self.validation_seeds:
                    cell = self._cell(learning, forgetting, setting, fields, method, seed, "validation")
                    trial = {**chosen.get(cell.combination, {}).get(method.name, {}), **tried}
                    found.append(replace(cell, fields={**cell.fields, **trial}, trial=trial))
        return found

    def tried(self, method: str, number: int) -> list[dict[str, Any]]:
        """Every combination of the values that a method tries in a round; none after its last."""
        rounds = self.tune.get(method, [])
        return trials_of(rounds[number]) if number < len(rounds) else []

    def _cell(
        self,
        learning: str,
        forgetting: str,
        setting: str,
        fields: Mapping[str, Any],
        method: Method,
        seed: int,
        split: CellSplit,
    ) -> Cell:
        return Cell(
            sweep=self.name,
            learning=learning,
            forgetting=forgetting,
            setting=setting,
            method=method.name,
            arm=method.arm,
            role=self.roles.get(method.name),
            seed=seed,
            split=split,
            position=(list(self.settings).index(setting), self.methods.index(method)),
            fields={**fields, **method.fields, "seed": seed},
        )


def _as_name(value: Any) -> str:
    """A value that is tried, as part of the name of a folder: short, and without separators of folders."""
    text = str(value)
    name = re.sub(r"[/\\\0]", "%", text)
    return text if name == text and len(text) <= _MAX_VALUE else f"{name[:_MAX_VALUE]}-{fingerprint_json(text)[:8]}"


def trials_of(values: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values to try; none for a method that is not tuned."""
    if not values:
        return []
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


# Reading -------------------------------------------------------------------------------------------------------------

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
