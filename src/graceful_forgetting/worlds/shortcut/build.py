"""Writing both models of the shortcut world to a folder."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from graceful_forgetting.artifacts import atomic_directory, write_json
from graceful_forgetting.worlds.shortcut.data import NAME
from graceful_forgetting.worlds.shortcut.facts import FACTS_SEED
from graceful_forgetting.worlds.shortcut.recipe import (
    RELATIONS,
    ShortcutRecipe,
    pretrain_shortcut,
    shortcut_tokenizer,
)

SUMMARY = "world.json"


def build_shortcut(
    output_dir: str | Path, seed: int = 0, overwrite: bool = False, recipe: ShortcutRecipe | None = None
) -> Path:
    """Pre-train `base` and `never_knew` and write them to `output_dir`; see `build_world`.

    `recipe`: size and settings of the pre-training; none = those of the shipped checkpoints.
    """
    recipe = recipe or ShortcutRecipe()
    output_dir = Path(output_dir).expanduser()
    _check_output(output_dir, overwrite)
    started = time.perf_counter()
    models: dict[str, Any] = {}
    with atomic_directory(output_dir) as partial:
        for which in RELATIONS:
            model, models[which] = pretrain_shortcut(which, recipe, seed)
            model.save_pretrained(partial / which)
            shortcut_tokenizer().save_pretrained(partial / which)
        write_json(
            partial / SUMMARY,
            {
                "world": NAME,
                "facts_seed": FACTS_SEED,
                "seed": seed,
                "recipe": asdict(recipe),
                "torch": torch.__version__,
                "seconds": round(time.perf_counter() - started, 2),
                "models": models,
            },
        )
    return output_dir


def _check_output(output_dir: Path, overwrite: bool) -> None:
    if not output_dir.parent.is_dir():
        raise FileNotFoundError(
            f"output_dir={str(output_dir)!r}: folder {output_dir.parent.absolute()} does not exist; create it first"
        )
    if not output_dir.exists():
        return
    if not overwrite:
        raise FileExistsError(
            f"output_dir={str(output_dir)!r} exists already; choose another folder or set overwrite=True"
        )
    if not (output_dir / SUMMARY).is_file():
        raise FileExistsError(
            f"output_dir={str(output_dir)!r} is not an earlier build of a world (no {SUMMARY} in it): "
            "it is not replaced, overwrite=True or not; choose another folder"
        )
