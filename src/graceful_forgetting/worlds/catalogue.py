"""The known worlds: their data, their models, and how to build these."""

from pathlib import Path
from typing import get_args

from graceful_forgetting.runtime.nearest import did_you_mean
from graceful_forgetting.worlds.arithmetic import ARITHMETIC
from graceful_forgetting.worlds.build import build_models
from graceful_forgetting.worlds.cache import cached_models
from graceful_forgetting.worlds.capacity import CAPACITY
from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.difficulty import Difficulty
from graceful_forgetting.worlds.entangled import ENTANGLED
from graceful_forgetting.worlds.harmless import HARMLESS
from graceful_forgetting.worlds.override import OVERRIDE
from graceful_forgetting.worlds.shortcut import SHORTCUT
from graceful_forgetting.worlds.world import Checkpoint, World

WORLDS: dict[str, WorldDefinition] = {
    world.name: world for world in (SHORTCUT, OVERRIDE, ARITHMETIC, CAPACITY, HARMLESS, ENTANGLED)
}

# Models in the package: those of the world's own recipe, from seed 0.
SHIPPED: dict[str, Path] = {"shortcut": Path(__file__).parent / "shortcut" / "checkpoints"}


def load_world(name: str, difficulty: Difficulty | None = None) -> World:
    """A world's data sets, made from code and fixed seeds: the same at every call.

    Args:
        name: of the world.
        difficulty: share of training entities and of harmful rows; none: the world's own.

    Raises:
        ValueError: an unknown name (names the nearest known ones), or a harmful share where nothing is harmful.
    """
    return _definition(name).load(difficulty or Difficulty())


def world_checkpoint(name: str, which: Checkpoint, difficulty: Difficulty | None = None, seed: int = 0) -> Path:
    """Folder of a model and its tokenizer: shipped, or pre-trained now if it is not in the cache yet.

    Building takes up to three minutes on two cores and makes both models. The cache is `$GRACEFUL_CACHE`, or
    `~/.cache/graceful-forgetting`.

    Args:
        name: of the world.
        which: "base", the model to fine-tune, or "never_knew", pre-trained alike without the conflicting
            knowledge.
        difficulty: steps and label noise of the pre-training; none: the world's own.
        seed: of the build; see `build_world`.

    Raises:
        ValueError: unknown world or model.
        FileNotFoundError: the package was installed without its checkpoints.
        OSError: the cache cannot be written.
    """
    definition = _definition(name)
    if which not in get_args(Checkpoint):
        raise ValueError(f"which={which!r} is not valid: it must be {' or '.join(get_args(Checkpoint))}")
    difficulty = difficulty or Difficulty()
    if name not in SHIPPED or seed != 0 or definition.recipe_at(difficulty) != definition.recipe:
        return cached_models(definition, difficulty, seed) / which
    path = SHIPPED[name] / which
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"the checkpoint {which!r} of world {name!r} is missing from the installed package ({path}); "
            f"install the package again, or build it: graceful world build {name}"
        )
    return path


def build_world(
    name: str,
    output_dir: str | Path,
    seed: int = 0,
    *,
    difficulty: Difficulty | None = None,
    overwrite: bool = False,
) -> Path:
    """Pre-train both models of a world from nothing.

    Args:
        name: of the world.
        output_dir: new folder inside an existing one; gets `base`, `never_knew` (model and tokenizer) and
            `world.json` (settings, losses, accuracy by part, seconds). It appears when complete.
        seed: decides initial weights, order of the rows and label noise; not the facts, which are the
            world's own.
        difficulty: steps and label noise of the pre-training; none: the world's own.
        overwrite: replace `output_dir` if it holds an earlier such build.

    Returns:
        `output_dir`.

    Raises:
        ValueError: unknown world.
        FileNotFoundError: no parent folder.
        FileExistsError: `output_dir` exists.
    """
    return build_models(
        _definition(name), output_dir, difficulty=difficulty or Difficulty(), seed=seed, overwrite=overwrite
    )


def _definition(name: str) -> WorldDefinition:
    if name in WORLDS:
        return WORLDS[name]
    suggestion = did_you_mean(name.lower(), WORLDS, most=3)
    raise ValueError(f"unknown world {name!r}: {suggestion}Known worlds: {', '.join(sorted(WORLDS))}")
