"""Random worlds at random difficulties: does a run with the defaults lose against plain fine-tuning?

    python -m evidence.reliability.draws --count 30      what is archived already is skipped

Draw n is decided by n alone: world, seed of its pre-training, difficulty, seed of the run. Each draw pre-trains a
model, fine-tunes it plainly and with the defaults, and adds a line to `archives/draws.jsonl`.
"""

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets.utils.logging import disable_progress_bar
from transformers.utils import logging as transformers_logging

from evidence.reliability.figures import ARCHIVES
from graceful_forgetting.runtime.processor import processor_name
from graceful_forgetting.runtime.yaml_file import read_mapping
from graceful_forgetting.sweeps.cell import CellArm
from graceful_forgetting.sweeps.grid import Cell, CellSettings
from graceful_forgetting.sweeps.run_cell import InputsCache, run_cell
from graceful_forgetting.worlds import WORLDS, Difficulty
from graceful_forgetting.worlds.build import pretrain_model, world_tokenizer

ARCHIVE = ARCHIVES / "draws.jsonl"
GRIDS = Path(__file__).parents[1] / "grids" / "default"
# A run with the defaults is to reach this share of the accuracy of plain fine-tuning.
LEAST = 0.9


def draw(number: int) -> dict[str, Any]:
    """World, difficulty and seeds of draw `number`."""
    dice = random.Random(number)
    world = dice.choice(list(WORLDS))
    steps = WORLDS[world].recipe.steps
    difficulty = {
        "train_share": round(dice.uniform(0.05, 0.3), 3),
        "pretraining_steps": round(steps * dice.uniform(0.5, 1.5)),
        "label_noise": round(dice.uniform(0.0, 0.3), 3),
        "harmful_share": round(dice.uniform(0.1, 1.0), 3),
    }
    if world == "harmless":
        del difficulty["harmful_share"]
    return {
        "number": number,
        "world": world,
        "world_seed": dice.randrange(1000),
        "seed": dice.randrange(1000),
        "difficulty": difficulty,
    }


def run_draw(drawn: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The draw with the accuracy of plain fine-tuning and of the defaults on the learning task."""
    world, difficulty = WORLDS[drawn["world"]], Difficulty(**drawn["difficulty"])
    model, _ = pretrain_model(world, "base", world.recipe_at(difficulty), drawn["world_seed"])
    model.save_pretrained(folder / "models" / "base")
    world_tokenizer(world).save_pretrained(folder / "models" / "base")
    # The arm that never knew is not run, and would take as long again to pre-train.
    shutil.copytree(folder / "models" / "base", folder / "models" / "never_knew")
    options = {name: drawn["difficulty"].get(name) for name in ("train_share", "harmful_share")}
    base = read_mapping(GRIDS / f"{drawn['world']}.yaml", "the grid")["base"]
    fields = {
        **{name: value for name, value in base.items() if name != "unlearn_learning_rate"},
        "world": drawn["world"],
        "model_name_or_path": str(folder / "models"),
        "world_options": {name: value for name, value in options.items() if value is not None},
    }
    settings = CellSettings(str(folder), None, evaluate_every=1000, curve_rows=16, keep_models=False)
    cache, measured = InputsCache(), dict(drawn)

    def cell(arm: CellArm) -> Any:
        where = {"sweep": "draws", "learning": drawn["world"], "forgetting": "all", "setting": str(drawn["number"])}
        place = {"method": arm, "role": None, "split": "final", "position": (0, 0)}
        described: dict[str, Any] = {**where, **place, "arm": arm, "seed": drawn["seed"]}
        return run_cell(
            Cell(**described, fields={**fields, "seed": drawn["seed"]}), arm, settings, cache, lambda _: None
        )

    for arm in ("plain", "lwf"):
        measured[arm] = (result := cell(arm)).score
        if result.selection is not None:
            measured["chosen"] = result.selection.chosen
            measured["fell_back"] = result.selection.guard.fell_back
    measured["of_plain"] = measured["lwf"] / measured["plain"] if measured["plain"] > 0 else 1.0
    measured["processor"] = processor_name()
    return measured


def archived() -> list[dict[str, Any]]:
    """Every draw that was run, in the order of their numbers."""
    if not ARCHIVE.is_file():
        return []
    rows = [json.loads(line) for line in ARCHIVE.read_text(encoding="utf-8").splitlines()]
    return sorted(rows, key=lambda row: row["number"])


def figures() -> dict[str, Any] | None:
    """What the archived draws come to; none where there are none."""
    rows = archived()
    if not rows:
        return None
    return {
        "draws": len(rows),
        "worlds": sorted({row["world"] for row in rows}),
        "least_of_plain": min(row["of_plain"] for row in rows),
        "below": [row["number"] for row in rows if row["of_plain"] < LEAST],
        "fell_back": sum(bool(row["fell_back"]) for row in rows),
        "mean_gain": sum(row["lwf"] - row["plain"] for row in rows) / len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30)
    disable_progress_bar()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    done = {row["number"] for row in archived()}
    for number in range(parser.parse_args().count):
        if number in done:
            continue
        with tempfile.TemporaryDirectory() as folder:
            row = run_draw(draw(number), Path(folder))
        with ARCHIVE.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{number}: {row['world']}, {row['lwf']:.3f} of {row['plain']:.3f} ({row['of_plain']:.2f})", flush=True)


if __name__ == "__main__":
    main()
