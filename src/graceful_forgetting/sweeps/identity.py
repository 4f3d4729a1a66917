"""What a cell is made from, as a hash, and the check of everything that can be wrong before work starts."""

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from graceful_forgetting.confidence.scorers import scorer_code
from graceful_forgetting.runs.recipe import Recipe, recipe_from_fields
from graceful_forgetting.runs.sources import Sources, load_sources
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.runtime.fingerprint import fingerprint_rows
from graceful_forgetting.runtime.hashes import fingerprint_json
from graceful_forgetting.runtime.own_files import check_file
from graceful_forgetting.runtime.version import __version__
from graceful_forgetting.sweeps.grid import Cell, CellSettings
from graceful_forgetting.unlearning.objectives import objective_code


class CellKeys:
    """Keys of cells; data and model files are read once for all cells that use them.

    A model or data set on the hub counts by its name and revision.
    """

    def __init__(self, settings: CellSettings):
        self._settings = settings
        self._recipes: dict[str, tuple[Recipe, Sources, dict[str, Any]]] = {}
        self._sources: dict[str, tuple[Sources, str]] = {}

    def key(self, cell: Cell) -> str:
        """Hash of recipe, data, model files and what is measured.

        Raises:
            ValueError: a field or value that is not valid, a task without test rows, no never-knew model.
            FileNotFoundError: a path that is not there.
        """
        _, sources, made_from = self._recipe(cell)
        if sources.learning_test is None:
            raise ValueError(f"learning task {cell.learning!r} has no test rows with answers: a sweep measures on them")
        if cell.arm == "never_knew" and sources.never_knew is None:
            raise ValueError(
                f"methods.{cell.method}: arm never_knew needs a world, or a model_name_or_path with base and never_knew"
            )
        return fingerprint_json(
            {
                "version": __version__,
                "cell": vars(cell),
                "measured": [
                    self._settings.reference_seed,
                    self._settings.evaluate_every,
                    self._settings.curve_rows,
                    self._settings.keep_models,
                ],
                **made_from,
            }
        )

    def recipe(self, cell: Cell) -> Recipe:
        """That of a cell with another seed and folder; raises as `key` does."""
        return self._recipe(cell)[0]

    def _recipe(self, cell: Cell) -> tuple[Recipe, Sources, dict[str, Any]]:
        """The recipe of a cell, and hashes of its data, models and own code: read and checked once for all seeds."""
        fields = {**cell.fields, "seed": 0}
        known = fingerprint_json(fields)
        if known not in self._recipes:
            where = f"methods.{cell.method} with settings.{cell.setting}"
            recipe = recipe_from_fields({**fields, "output_dir": "unused"}, where)
            code = {**scorer_code(recipe[1].confidence_scorer), **objective_code(recipe[1])}
            try:
                sources, content = self._content(recipe)
            except ValueError as error:
                raise ValueError(f"learning {cell.learning}, forgetting {cell.forgetting}: {error}") from error
            self._recipes[known] = recipe, sources, {"content": content, **code}
        return self._recipes[known]

    def _content(self, recipe: Recipe) -> tuple[Sources, str]:
        run, lwf, model = recipe
        name = model.name_or_folder(lwf.model_init_kwargs)
        template = [] if lwf.chat_template_path is None else _folder_hash(lwf.chat_template_path)
        known = fingerprint_json([asdict(run), name, lwf.model_init_kwargs, *template])
        if known not in self._sources:
            sources = load_sources(run, name, seed=0)
            models = [_folder_hash(path) for path in (sources.model, sources.never_knew) if path is not None]
            self._sources[known] = sources, fingerprint_json([known, _rows_hash(sources), models])
        return self._sources[known]


def _rows_hash(sources: Sources) -> list[Any]:
    sets = [sources.learning_train, sources.learning_test, sources.learning_validation]
    for forgetting in sources.forgetting.values():
        sets += [forgetting.prompts, forgetting.test]
    return [None if rows is None else fingerprint_rows(rows, rows.column_names) for rows in sets]


def _folder_hash(path: str) -> list[str]:
    """Names and contents of a file, or of the files in a model folder; of a name on the hub, itself."""
    entries = [Path(path)] if Path(path).is_file() else Path(path).glob("*")
    files: Sequence[Path] = sorted(entry for entry in entries if entry.is_file())
    if not files:
        return [path]
    return [f"{file.name} {blake2b(file.read_bytes(), digest_size=16).hexdigest()}" for file in files]


def finished(cell: Cell, key: str, output_dir: str | Path) -> bool:
    """Whether a cell has a result that was made from the same and is as it was written."""
    path = Path(output_dir) / cell.folder / "result.json"
    if not path.is_file():
        return False
    try:
        check_file(path, must_be_listed=True)
        content = read_json(path)
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("key") == key
