"""Models of worlds that are not in the package: built when first asked for, and kept."""

import logging
from pathlib import Path
from typing import Any

from graceful_forgetting.runtime.artifacts import cache_root
from graceful_forgetting.runtime.store import Entry
from graceful_forgetting.worlds.build import SUMMARY, fill_models, models_key
from graceful_forgetting.worlds.definition import WorldDefinition
from graceful_forgetting.worlds.difficulty import Difficulty

logger = logging.getLogger(__name__)


def cached_models(world: WorldDefinition, difficulty: Difficulty, seed: int) -> Path:
    """Folder with `base` and `never_knew`, built now if they are not there or damaged.

    Only one process builds the same models at a time; others wait for it.

    Raises `OSError` where the folder cannot be written, or something else is in its place.
    """
    key = models_key(world, difficulty, seed)
    entry = Entry(cache_root() / "worlds" / f"{world.name}-{key[:16]}", key, SUMMARY)

    def fill(folder: Path) -> dict[str, Any]:
        logger.warning("The models of world %r are pre-trained now, once, into %s", world.name, entry.path)
        return fill_models(folder, world, difficulty, seed)

    return entry.once(fill)
