"""What a base model knows of the tasks: bits per byte of the right answers, and multiple choice by likelihood.

    python evidence/speed/base_model_tasks.py --data ../shared/data [--model graceful/base-text] [--rows 300]

Test rows are drawn from each task, all where there are fewer; nothing is generated. `--data` is a folder with one
folder of rows a task, by the task's name (XQuAD's languages are folders of its own).
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.evaluation.evaluate import EvaluationRows, evaluate_items
from graceful_forgetting.results.provenance import package_versions
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.tasks import load_task
from graceful_forgetting.training.shipped import SHIPPED_NAME, resolve_model_name

# sst5 is the one task of which no row was trained on.
TASKS = (
    "arc_easy",
    "boolq_closed_book",
    "dental",
    "openbookqa",
    "psychol",
    "qasc",
    "sst5",
    "gsm8k",
    "tatoeba_de_en",
    "xquad:en",
    "xquad:de",
)
SEED = 0


def main() -> None:
    """Measure every task and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a folder of rows a task")
    parser.add_argument("--model", default=SHIPPED_NAME, help=f"name or folder of the model (default {SHIPPED_NAME})")
    parser.add_argument("--rows", type=int, default=300, help="test rows a task, at most (default 300)")
    parser.add_argument("--batch_size", type=int, default=16, help="answers a forward pass (default 16)")
    parser.add_argument("--output", type=Path, default=Path("evidence/archives/base_model_tasks.json"))
    options = parser.parse_args()
    missing = [str(folder) for folder in map(options.data.joinpath, map(_folder, TASKS)) if not folder.is_dir()]
    if missing:
        parser.error(f"--data {options.data}: there is no folder {', '.join(missing)}")
    disable_progress_bars()
    folder = resolve_model_name(options.model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tasks = {}
    for name in TASKS:
        tasks[name] = _measured(model, tokenizer, name, options)
        print(f"{name}: {tasks[name]}", flush=True)
    write_json(options.output, {"model": options.model, "versions": package_versions(), "tasks": tasks})


def _folder(name: str) -> str:
    return name.replace(":", "/")


def _measured(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, options: argparse.Namespace
) -> dict[str, Any]:
    rows = load_task(name, "test", source=str(options.data / _folder(name)))
    rows = rows.shuffle(seed=SEED).select(range(min(options.rows, len(rows))))
    metrics, _ = evaluate_items(
        model,
        EvaluationRows(rows, tokenizer),
        "learning",
        None,
        batch_size=options.batch_size,
        max_new_tokens=1,
        description=name,
        generate=False,
    )
    found: dict[str, Any] = {"rows": len(rows), "bits_per_byte": metrics.bits_per_byte}
    if metrics.choice is not None:
        right = Counter(row["choices"].index(row["completion"]) for row in rows)
        found |= {
            "accuracy": metrics.choice.accuracy,
            "accuracy_per_byte": metrics.choice.accuracy_per_byte,
            "chance": metrics.choice.chance,
            "most_frequent": max(right.values()) / len(rows),
        }
    return found


if __name__ == "__main__":
    main()
