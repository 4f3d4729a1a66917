"""Models of worlds that are not in the package: built when first asked for, and kept."""

import logging
from dataclasses import asdict
from pathlib import Path

import torch
from filelock import FileLock

from graceful_forgetting.runtime.artifacts import cache_root, remove_partials
from graceful_forgetting.runtime.fingerprint import fingerprint_json
from graceful_forgetting.runtime.version import __version__
from graceful_forgetting.worlds.build import SUMMARY, build_models
from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.difficulty import Difficulty

logger = logging.getLogger(__name__)


def cached_models(world: WorldDefinition, difficulty: Difficulty, seed: int) -> Path:
    """Folder with `base` and `never_knew`, built now if they are not there.

    Only one process builds the same models at a time; others wait for it.

    Raises `OSError` where the folder cannot be written.
    """
    folder = cache_root() / "worlds" / f"{world.name}-{_key(world, difficulty, seed)}"
    models = folder / "models"
    if (models / SUMMARY).is_file():
        return models
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        # Another process may have built them while this one waited.
        if not (models / SUMMARY).is_file():
            remove_partials(folder)
            logger.warning("The models of world %r are pre-trained now, once, into %s", world.name, models)
            build_models(world, models, difficulty=difficulty, seed=seed)
    return models


def _key(world: WorldDefinition, difficulty: Difficulty, seed: int) -> str:
    """Hash of all that the weights follow from; of the difficulty, only what the pre-training reads counts."""
    return fingerprint_json(
        {
            "recipe": asdict(world.recipe_at(difficulty)),
            # A list: the order of the parts is the order of the rows.
            "questions": [[name, [asdict(q) for q in part]] for name, part in world.pretraining().items()],
            "not_known": sorted(world.not_known),
            "seed": seed,
            "version": __version__,
            "torch": torch.__version__,
        }
    )[:16]
