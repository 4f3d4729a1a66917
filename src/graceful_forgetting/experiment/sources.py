"""Where a run's models and data come from: a world, known tasks, or the user's own files."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from graceful_forgetting.base_model import SHIPPED_NAME, resolve_model_name
from graceful_forgetting.experiment.arguments import RunArguments
from graceful_forgetting.tasks import TASKS, Task, available_splits, load_task, resolve_task
from graceful_forgetting.worlds import load_world, world_checkpoint


@dataclass(frozen=True)
class ForgettingSource:
    """One forgetting task: prompts for elicitation, rows with answers for its evaluation (none if it has none)."""

    prompts: Dataset
    test: Dataset | None
    kind: str | None
    task: Task | None


@dataclass(frozen=True)
class Sources:
    """Everything that a run reads.

    Attributes:
        model: name or path of the base model.
        never_knew: name or path of the model without the harmful knowledge, where there is one.
        learning_name: name of the learning task.
        learning_train: `prompt`, `completion`.
        learning_test: `prompt`, `completion`, and `answer` for tasks that parse answers.
        learning_task: how answers are read; none: exact match of the stripped text.
        forgetting: by task name.
    """

    model: str
    never_knew: str | None
    learning_name: str
    learning_train: Dataset
    learning_test: Dataset | None
    learning_task: Task | None
    forgetting: dict[str, ForgettingSource]


def load_sources(arguments: RunArguments, model_name_or_path: str | None, seed: int) -> Sources:
    """Read all data of a run; models are only named.

    Raises:
        ValueError: an unknown world or task, no model, wrong columns.
        FileNotFoundError: a path that is not there.
    """
    if arguments.world is not None:
        return _world_sources(arguments, arguments.world, model_name_or_path, seed)
    if not model_name_or_path:
        raise ValueError(
            "model_name_or_path is not set: name a model on the hub, a folder that holds one, or the small model in "
            f"the package ({SHIPPED_NAME})"
        )
    model_name_or_path = resolve_model_name(model_name_or_path)
    check_model_path("model_name_or_path", model_name_or_path)
    if arguments.never_knew_model is not None:
        check_model_path("never_knew_model", arguments.never_knew_model)
    assert arguments.learning_task is not None
    assert arguments.forgetting_tasks is not None
    learning = resolve_task(arguments.learning_task)
    source = _source_of(learning, arguments.data_source)
    forgetting: dict[str, ForgettingSource] = {}
    for name in arguments.forgetting_tasks:
        task = resolve_task(name)
        if task.name in forgetting:
            raise ValueError(f"forgetting_tasks names {task.name!r} twice")
        forgetting[task.name] = _forgetting_source(task, arguments, seed)
    return Sources(
        model=model_name_or_path,
        never_knew=arguments.never_knew_model,
        learning_name=learning.name,
        learning_train=load_task(learning, "train", source=source, limit=arguments.learning_limit, seed=seed),
        learning_test=_test_rows(learning, arguments, seed),
        learning_task=learning,
        forgetting=forgetting,
    )


def check_model_path(argument: str, value: str) -> None:
    """Refuse a path that is no model folder; a name on the hub (`owner/name`) is left to the hub.

    Raises:
        FileNotFoundError: names the argument and what was looked for.
    """
    path = Path(value).expanduser()
    looks_like_path = path.is_absolute() or value.startswith((".", "~")) or value.count("/") > 1 or path.exists()
    if looks_like_path and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{argument}={value!r} is not a model folder: there is no {path / 'config.json'}")


def _source_of(task: Task, data_source: str) -> str | Path:
    if data_source in ("hub", "sample") or task.name not in TASKS:
        return data_source
    folder = Path(data_source).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"data_source={data_source!r} is not a folder: use 'hub', 'sample', or a folder with one folder a task"
        )
    return folder / task.name


def _test_rows(task: Task, arguments: RunArguments, seed: int) -> Dataset | None:
    source = _source_of(task, arguments.data_source)
    if "test" not in available_splits(task, source):
        return None
    rows = load_task(task, "test", source=source, limit=arguments.eval_limit, seed=seed, require_completion=False)
    return rows if "completion" in rows.column_names else None


def _forgetting_source(task: Task, arguments: RunArguments, seed: int) -> ForgettingSource:
    source = _source_of(task, arguments.data_source)
    rows = load_task(
        task, "train", source=source, limit=arguments.forgetting_limit, seed=seed, require_completion=False
    )
    return ForgettingSource(rows.select_columns(["prompt"]), _test_rows(task, arguments, seed), None, task)


def _world_sources(arguments: RunArguments, name: str, model: str | None, seed: int) -> Sources:
    world = load_world(name)
    if model is None:
        base, never_knew = str(world_checkpoint(name, "base")), str(world_checkpoint(name, "never_knew"))
    else:
        # A folder that `graceful world build` wrote, with both models inside.
        base, never_knew = str(Path(model) / "base"), str(Path(model) / "never_knew")
        check_model_path("model_name_or_path", base)
        check_model_path("model_name_or_path", never_knew)
    return Sources(
        model=base,
        never_knew=never_knew,
        learning_name=name,
        learning_train=_limited(world.learning_train, arguments.learning_limit, seed),
        learning_test=_limited(world.learning_test, arguments.eval_limit, seed),
        learning_task=None,
        forgetting={
            task: ForgettingSource(
                prompts=_limited(rows, arguments.forgetting_limit, seed).select_columns(["prompt"]),
                test=_limited(rows, arguments.eval_limit, seed),
                kind=world.kinds[task],
                task=None,
            )
            for task, rows in world.forgetting.items()
        },
    )


def _limited(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    if limit is None or limit >= len(rows):
        return rows
    return rows.shuffle(seed=seed).select(range(limit))
