"""The known worlds: their data, their shipped checkpoints, and how to build these anew."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from graceful_forgetting.worlds.shortcut import build_shortcut, load_shortcut
from graceful_forgetting.worlds.world import Checkpoint, World


@dataclass(frozen=True)
class WorldDefinition:
    """Where a world comes from.

    Attributes:
        load: makes its data sets.
        build: `(output_dir, seed, overwrite)`; pre-trains its models and writes them.
        checkpoints: folder of the shipped models.
    """

    load: Callable[[], World]
    build: Callable[[str | Path, int, bool], Path]
    checkpoints: Path


WORLDS: dict[str, WorldDefinition] = {
    "shortcut": WorldDefinition(
        load=load_shortcut,
        build=build_shortcut,
        checkpoints=Path(__file__).parent / "shortcut" / "checkpoints",
    ),
}


def load_world(name: str) -> World:
    """A world's data sets, made from code and a fixed seed: the same at every call.

    Raises `ValueError` for an unknown name, with the nearest known ones.
    """
    return _definition(name).load()


def world_checkpoint(name: str, which: Checkpoint) -> Path:
    """Folder of a shipped model and its tokenizer.

    Args:
        name: of the world.
        which: "base", the model to fine-tune, or "never_knew", pre-trained alike without the conflicting
            knowledge.

    Raises:
        ValueError: unknown world or model.
        FileNotFoundError: the package was installed without its checkpoints.
    """
    definition = _definition(name)
    if which not in get_args(Checkpoint):
        raise ValueError(f"which={which!r} is not valid: it must be {' or '.join(get_args(Checkpoint))}")
    path = definition.checkpoints / which
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"the checkpoint {which!r} of world {name!r} is missing from the installed package ({path}); "
            f"install the package again, or build it: graceful world build {name}"
        )
    return path


def build_world(name: str, output_dir: str | Path, seed: int = 0, *, overwrite: bool = False) -> Path:
    """Pre-train both models of a world from nothing.

    Args:
        name: of the world.
        output_dir: new folder inside an existing one; gets `base`, `never_knew` (model and tokenizer) and
            `world.json` (settings, losses, accuracy by relation, seconds). It appears when complete.
        seed: decides initial weights, order of the rows and label noise; not the facts, which are the
            world's own.
        overwrite: replace `output_dir` if it holds an earlier such build.

    Returns:
        `output_dir`.

    Raises:
        ValueError: unknown world.
        FileNotFoundError: no parent folder.
        FileExistsError: `output_dir` exists.
    """
    return _definition(name).build(output_dir, seed, overwrite)


def _definition(name: str) -> WorldDefinition:
    if name in WORLDS:
        return WORLDS[name]
    near = get_close_matches(name.lower(), WORLDS, n=3, cutoff=0.4)
    suggestion = f"did you mean {' or '.join(repr(other) for other in near)}? " if near else ""
    raise ValueError(f"unknown world {name!r}: {suggestion}Known worlds: {', '.join(sorted(WORLDS))}")
