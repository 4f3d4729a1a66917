"""The grid of a sweep, laid out as cells; `grid_file.py` reads it."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graceful_forgetting.runs.recipe import check_name
from graceful_forgetting.runtime.hashes import fingerprint_json
from graceful_forgetting.sweeps.cell import CellArm, CellRole, CellSplit

MIXED = "mixed"
# In the folder of a sweep: what was tried and chosen.
TUNING_FILE = "tuning.json"
_MAX_VALUE = 40
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
class CellSettings:
    """What all cells of a sweep have in common: see the fields of `Grid` by the same names."""

    output_dir: str
    reference_seed: int | None
    evaluate_every: int
    curve_rows: int
    keep_models: bool
    part: tuple[str, ...] = ()

    @property
    def shared(self) -> Path:
        """Folder of the stages that cells share."""
        return Path(self.output_dir, "shared")


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
        part: names of `learning` whose cells are run; none: all.
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
    part: tuple[str, ...] = ()

    def only(self, names: Sequence[str]) -> "Grid":
        """The same grid, of which the cells are run that learn one of these; `mixed` and folders stay what they are.

        Raises:
            ValueError: a name that the grid does not learn, or one choice for all cells, which a part cannot make.
        """
        for name in names:
            check_name(name, self.learning, f"--learning of the grid {self.name!r}", "name")
        if self.tune and self.tune_together and set(names) != set(self.learning):
            raise ValueError(
                f"--learning {' '.join(names)}: with tune_together all cells of the grid choose the settings together. "
                "Run it whole, or set tune_together: false"
            )
        return replace(self, part=tuple(names))

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
            if self.part and learning not in self.part:
                continue
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
            # Beside no other set it is all other tasks of the grid.
            chosen = [name for name in dict.fromkeys(named or self.learning.values()) if name != task]
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
