"""Any task of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness) on the models of a run.

The harness is the extra `eval`; nothing here imports it before it is needed.
"""

import copy
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.runtime.hub import work_offline_if_unreachable
from graceful_forgetting.runtime.rng import preserved_rng


def check_lm_eval_tasks(tasks: Sequence[str]) -> None:
    """Raise before any long work where `tasks` cannot be run.

    Raises:
        ImportError: lm-evaluation-harness is not installed.
        FileNotFoundError, ValueError: a path or name that it does not know, or a task that cannot be built.
        ConnectionError: a task whose data are not in the cache, and the hub cannot be reached.
    """
    manager, names = _load_tasks(tasks)
    work_offline_if_unreachable()
    for name in names:
        try:
            manager.load([name])
        except ConnectionError as error:
            raise ConnectionError(
                f"lm_eval_tasks: the data of {name!r} are not at hand ({error}): load them once with a connection to "
                "the hub, name a task whose YAML file reads local data, or leave it out"
            ) from error
        # A task's file runs code of its own.
        except Exception as error:
            raise ValueError(f"lm_eval_tasks: {name!r} cannot be built: {error}") from error


def evaluate_with_lm_eval(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    limit: int | None,
    batch_size: int,
    in_turns: bool = False,
    system_prompt: str | None = None,
) -> dict[str, dict[str, float]]:
    """The harness's numbers of one model.

    Args:
        model: any causal language model, at the weights to evaluate; its mode is restored.
        processing_class: its tokenizer, which the harness gets a copy of.
        tasks: names of tasks or groups of the harness, YAML files, or folders of them (`graceful tasks export`).
        limit: at most so many documents of each task.
        batch_size: of the harness.
        in_turns: ask through the tokenizer's chat template.
        system_prompt: in place of what the template puts there itself.

    Returns:
        by task and metric. A metric has the harness's name, with its filter after a comma where it has one
        ("exact_match,strict-match"). Its standard errors are left out: they ignore the seeds of training.

    The random states of the caller are as before: the harness seeds them all.

    Raises:
        as `check_lm_eval_tasks`.
    """
    manager, names = _load_tasks(tasks)
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    quiet = logging.getLogger("lm_eval")
    level, training = quiet.level, model.training
    quiet.setLevel(logging.ERROR)
    try:
        with preserved_rng():
            results: Any = lm_eval.simple_evaluate(
                HFLM(pretrained=model, tokenizer=copy.deepcopy(processing_class), batch_size=batch_size),
                tasks=names,
                limit=limit,
                task_manager=manager,
                bootstrap_iters=0,
                apply_chat_template=in_turns,
                system_instruction=system_prompt,
                log_samples=False,
            )
    finally:
        quiet.setLevel(level)
        model.train(training)
    return {task: _numbers(values) for task, values in results["results"].items()}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """The metrics among the entries of one task: "acc,none" -> "acc"."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if "," in name and "_stderr" not in name and isinstance(value, int | float)
    }


def _load_tasks(tasks: Sequence[str]) -> tuple[Any, list[str]]:
    """The harness's task manager and the names to run."""
    if find_spec("lm_eval") is None:
        raise ImportError(
            f"lm_eval_tasks={list(tasks)} needs lm-evaluation-harness, which is not installed: "
            "pip install 'graceful-forgetting[eval]'"
        )
    from lm_eval.tasks import TaskManager

    files: list[Path] = []
    names: list[str] = []
    for task in tasks:
        path = Path(task).expanduser()
        if path.is_dir():
            found = sorted(path.glob("*.yaml"))
            if not found:
                raise FileNotFoundError(f"lm_eval_tasks: folder {task!r} has no .yaml file")
            files += found
        elif path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                raise FileNotFoundError(f"lm_eval_tasks: there is no file {task!r}")
            files.append(path)
        else:
            names.append(task)
    # Reading the harness's own task files takes seconds.
    folders = sorted({str(file.parent) for file in files})
    manager = TaskManager(include_path=folders or None, include_defaults=bool(names))
    names += [_name_in(file) for file in files]
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise ValueError(
            f"lm_eval_tasks: {', '.join(map(repr, unknown))} is no task of lm-evaluation-harness; `lm_eval ls tasks` "
            "lists its tasks, and a path to a YAML file or folder is possible as well"
        )
    return manager, names


def _name_in(file: Path) -> str:
    import yaml

    # Tags such as !function stand beside the name; the base loader reads over them.
    content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    if not isinstance(content, dict) or not isinstance(content.get("task"), str):
        raise ValueError(f"lm_eval_tasks: {file} has no key `task` with the task's name")
    return content["task"]
