"""Our tasks as files of lm-evaluation-harness: one YAML and one JSONL a task, for `lm_eval --include_path`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from graceful_forgetting.runtime.artifacts import atomic_directory
from graceful_forgetting.tasks.answers import whole_text
from graceful_forgetting.tasks.catalogue import resolve_task
from graceful_forgetting.tasks.gsm8k import parse_number
from graceful_forgetting.tasks.loading import load_task, task_source
from graceful_forgetting.tasks.task import Task, first_line

_MAX_GENERATED_TOKENS = 256
# How the harness reads an answer that we read with these functions: where generation ends, a regular expression and
# which of its matches, and what is left out of both sides before they are compared.
_READING: dict[Any, dict[str, Any]] = {
    parse_number: {
        "until": ["\nQuestion:"],
        "pattern": r"(-?\$?\d[\d,]*(?:\.\d+)?)",
        "select": -1,
        "ignore": [",", r"\$", r"\.0*$"],
    },
    first_line: {"until": ["\n"], "pattern": r"^\s*(.*?)\s*$", "select": 0, "ignore": []},
    whole_text: {"until": ["\n\n"], "pattern": r"(?s)^\s*(.*?)\s*$", "select": 0, "ignore": []},
}


def export_tasks(
    folder: str | Path,
    tasks: Sequence[str],
    *,
    data_source: str = "hub",
    limit: int | None = None,
    seed: int = 42,
) -> list[Path]:
    """Write `<folder>/graceful_<task>.yaml` and the rows of its test split for every task.

    A multiple-choice task is exported with its options compared by log-likelihood: the harness's `acc` is our accuracy
    by likelihood, its `acc_bytes` our accuracy by likelihood per byte. Other tasks generate, and are scored by exact
    match, or chrF where that is the task's metric. The YAML names the rows by their absolute path: export again after
    moving the folder.

    Args:
        folder: new folder, or one from an earlier export, which is replaced.
        tasks: names or paths, as in a recipe.
        data_source: as in a recipe.
        limit, seed: of the rows, as in `load_task`.

    Raises:
        ValueError, FileNotFoundError: an unknown task, one without a test split, or one whose way to read answers
            the harness does not have.

    Returns:
        the YAML files.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and all(_is_ours(entry) for entry in folder.iterdir())):
        raise ValueError(f"{folder} holds other files than an earlier export: name a new folder")
    resolved = [resolve_task(name) for name in tasks]
    names = ["graceful_" + task.name.replace(":", "_") for task in resolved]
    rows = [load_task(task, "test", source=task_source(task, data_source), limit=limit, seed=seed) for task in resolved]
    for task, data in zip(resolved, rows, strict=True):
        _check_texts(task, data)
    configurations = [
        _configuration(task, name, folder / f"{name}.jsonl", multiple_choice="choices" in data.column_names)
        for task, name, data in zip(resolved, names, rows, strict=True)
    ]
    with atomic_directory(folder) as partial:
        for name, data, configuration in zip(names, rows, configurations, strict=True):
            with (partial / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for row in data:
                    if "choices" in row:
                        row["right"] = row["choices"].index(row["completion"])
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            text = yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True)
            (partial / f"{name}.yaml").write_text(text, encoding="utf-8")
    return [folder / f"{name}.yaml" for name in names]


def _is_ours(path: Path) -> bool:
    return path.name.startswith("graceful_") and path.suffix in (".yaml", ".jsonl")


def _check_texts(task: Task, rows: Dataset) -> None:
    """Refuse conversations, which the harness would print as they are: it makes turns of texts itself."""
    if task.system_prompt is not None:
        raise ValueError(
            f"task {task.name!r} has a system_prompt, which its files would lose: remove it, and tell the harness "
            "(--system_instruction)"
        )
    if not isinstance(rows[0]["prompt"], str):
        raise ValueError(
            f"task {task.name!r} has conversations: give texts as prompt and completion, of which the harness makes "
            "turns itself (--apply_chat_template)"
        )


def _configuration(task: Task, name: str, rows: Path, multiple_choice: bool) -> dict[str, Any]:
    common = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "target_delimiter": "",
        "metadata": {"version": 1.0, "description": task.description, "licence": task.licence},
    }
    if multiple_choice:
        return {
            **common,
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{right}}",
            "metric_list": [_metric("acc"), _metric("acc_norm"), _metric("acc_bytes")],
        }
    if task.parse_answer not in _READING:
        raise ValueError(
            f"task {task.name!r} reads answers in a way that lm-evaluation-harness files cannot say: use "
            "`parse: exact`, `first_line` or `last_number`"
        )
    reading = _READING[task.parse_answer]
    read = {"function": "regex", "regex_pattern": reading["pattern"], "group_select": reading["select"]}
    exact = {**_metric("exact_match"), "ignore_case": task.metric == "f1", "ignore_punctuation": task.metric == "f1"}
    if reading["ignore"]:
        exact["regexes_to_ignore"] = reading["ignore"]
    return {
        **common,
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {
            "until": reading["until"],
            "do_sample": False,
            "max_gen_toks": _MAX_GENERATED_TOKENS,
        },
        "filter_list": [{"name": "none", "filter": [read, {"function": "take_first"}]}],
        "metric_list": [_metric("chrf") if task.metric == "chrf" else exact],
    }


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "chrf" if name == "chrf" else "mean", "higher_is_better": True}
