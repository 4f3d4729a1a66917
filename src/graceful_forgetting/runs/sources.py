"""Where a run's models and data come from: a world, known tasks, or the user's own files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from datasets import Dataset

from graceful_forgetting.data.turns import in_turns
from graceful_forgetting.elicitation.options import OPTIONS_COLUMN
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runtime.collection import without_collection
from graceful_forgetting.runtime.hub import work_offline_if_unreachable
from graceful_forgetting.tasks import Task, available_splits, load_draws, load_task, resolve_task, task_source
from graceful_forgetting.tasks.task import VALIDATION
from graceful_forgetting.training.preparation import SCORE_COLUMN
from graceful_forgetting.training.shipped import SHIPPED_NAME
from graceful_forgetting.worlds import Checkpoint, World, load_world, world_checkpoint

# Unless `validation_limit` says how many.
MOST_VALIDATION_ROWS = 200


@dataclass(frozen=True)
class ForgettingSource:
    """One forgetting task.

    Attributes:
        prompts: for elicitation.
        test: rows with answers for its evaluation; none if it has none.
        kind: what all of it is to the learning task, where that is known.
        task: how answers are read; none: exact match of the stripped text.
        row_kinds: `prompt_text` -> what it is, where single rows are known.
        answers: `prompts` with the `completion`, and the score, that the data carry; none where they carry none.
        rows: of `prompts`, see `row_names`.
    """

    prompts: Dataset
    test: Dataset | None
    kind: str | None
    task: Task | None
    row_kinds: dict[str, str] = field(default_factory=dict)
    answers: Dataset | None = None
    rows: list[str] | None = None


@dataclass(frozen=True)
class Sources:
    """Everything that a run reads.

    Attributes:
        model: name or path of the base model.
        never_knew: path of the model without the harmful knowledge, where there is one.
        learning_name: name of the learning task.
        learning_train: `prompt`, `completion`.
        learning_test: `prompt`, `completion`, and `answer` for tasks that parse answers.
        learning_task: how answers are read; none: exact match of the stripped text.
        forgetting: by task name.
        learning_validation: as `learning_test`, to choose settings by; none where there are no such rows. Of a task,
            training rows that `learning_limit` leaves over.
        evaluation: further tasks by name, with their test rows.
    """

    model: str
    never_knew: str | None
    learning_name: str
    learning_train: Dataset
    learning_test: Dataset | None
    learning_task: Task | None
    forgetting: dict[str, ForgettingSource]
    learning_validation: Dataset | None = None
    evaluation: dict[str, tuple[Dataset, Task]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[Task]:
        """Those that say how answers are read: learned, forgotten, and further ones."""
        named = [self.learning_task, *(source.task for source in self.forgetting.values())]
        return [task for task in named if task is not None] + [task for _, task in self.evaluation.values()]


@without_collection()
def load_sources(arguments: RunArguments, model_name_or_path: str | None, seed: int) -> Sources:
    """Read all data of a run; models are only named.

    Raises:
        ValueError: an unknown world or task, no model, wrong columns.
        FileNotFoundError: a path that is not there.
        ConnectionError: data on the hub that cannot be had.
    """
    if arguments.world is not None:
        return _world_sources(arguments, arguments.world, model_name_or_path, seed)
    if not model_name_or_path:
        raise ValueError(
            "model_name_or_path is not set: name a model on the hub, a folder that holds one, or the small model in "
            f"the package ({SHIPPED_NAME})"
        )
    base, never_knew = _base_and_twin(model_name_or_path)
    assert arguments.learning_task is not None
    assert arguments.forgetting_tasks is not None
    with _at_hand("learning_task", arguments.learning_task):
        learning = resolve_task(arguments.learning_task)
        source = _task_source(learning, arguments)
        train, validation = _training_and_validation_rows(learning, source, arguments, seed)
        test = _test_rows(learning, arguments, seed)
    forgetting: dict[str, ForgettingSource] = {}
    for name in arguments.forgetting_tasks:
        with _at_hand("forgetting_tasks", name):
            task = resolve_task(name)
            if task.name in forgetting:
                raise ValueError(f"forgetting_tasks names {task.name!r} twice")
            forgetting[task.name] = _forgetting_source(task, arguments, seed)
    return Sources(
        model=base,
        never_knew=never_knew,
        evaluation=_evaluation_tasks(arguments, {learning.name, *forgetting}, seed),
        learning_name=learning.name,
        learning_train=train,
        learning_test=test,
        learning_task=learning,
        forgetting=forgetting,
        learning_validation=validation,
    )


@without_collection()
def sources_in_turns(sources: Sources, system_prompt: str | None) -> Sources:
    """The same with all rows as conversations, see `in_turns`; a task's own system prompt is preferred to the run's."""

    def turned(rows: Dataset, task: Task | None) -> Dataset:
        own = None if task is None else task.system_prompt
        return in_turns(rows, system_prompt if own is None else own)

    def if_any(rows: Dataset | None, task: Task | None) -> Dataset | None:
        return None if rows is None else turned(rows, task)

    def forgotten(source: ForgettingSource) -> ForgettingSource:
        prompts = turned(source.prompts, source.task)
        names = zip(source.prompts["prompt"][:], prompts["prompt"][:], strict=True) if source.row_kinds else ()
        known = {prompt_text(new): source.row_kinds.get(prompt_text(old)) for old, new in names}
        return replace(
            source,
            prompts=prompts,
            test=if_any(source.test, source.task),
            answers=if_any(source.answers, source.task),
            row_kinds={prompt: kind for prompt, kind in known.items() if kind is not None},
        )

    return replace(
        sources,
        learning_train=turned(sources.learning_train, sources.learning_task),
        learning_test=if_any(sources.learning_test, sources.learning_task),
        learning_validation=if_any(sources.learning_validation, sources.learning_task),
        forgetting={name: forgotten(source) for name, source in sources.forgetting.items()},
        evaluation={name: (turned(rows, task), task) for name, (rows, task) in sources.evaluation.items()},
    )


def _evaluation_tasks(arguments: RunArguments, taken: set[str], seed: int) -> dict[str, tuple[Dataset, Task]]:
    found: dict[str, tuple[Dataset, Task]] = {}
    for name in arguments.evaluation_tasks or []:
        with _at_hand("evaluation_tasks", name):
            task = resolve_task(name)
            if task.name in taken | set(found):
                raise ValueError(f"evaluation_tasks names {task.name!r}, which this run evaluates already: remove it")
            rows = _test_rows(task, arguments, seed)
        if rows is None:
            raise ValueError(
                f"evaluation_tasks names {name!r}, which has no test rows with answers: put them into test.jsonl"
            )
        found[task.name] = rows, task
    return found


@contextmanager
def _at_hand(argument: str, name: str) -> Iterator[None]:
    """Name the field of the recipe, and its own remedies, where data on the hub cannot be had."""
    try:
        yield
    except ConnectionError as error:
        raise ConnectionError(f"{argument}={name!r}: {str(error).replace(' source=', ' data_source=')}") from error


def _task_source(task: Task, arguments: RunArguments) -> str | Path:
    source = task_source(task, arguments.data_source)
    if task.path is None and source == "hub":
        work_offline_if_unreachable()
    return source


def _base_and_twin(model_name_or_path: str) -> tuple[str, str | None]:
    """The base model, and its twin that never knew where the folder has both, as that of a world has."""
    folder = Path(model_name_or_path)
    models = [folder / which for which in get_args(Checkpoint)]
    if all((model / "config.json").is_file() for model in models):
        base, never_knew = map(str, models)
        return base, never_knew
    check_model_path("model_name_or_path", model_name_or_path)
    return model_name_or_path, None


def _training_and_validation_rows(
    task: Task, source: str | Path, arguments: RunArguments, seed: int
) -> tuple[Dataset, Dataset | None]:
    """The first `learning_limit` rows of a draw; and the task's own validation rows, or those that come next in it."""
    limit, most = arguments.learning_limit, arguments.validation_limit
    own = most != 0 and task.path is not None and VALIDATION in available_splits(task, source)
    if own or limit is None or most == 0:
        train = load_task(task, "train", source=source, limit=limit, seed=seed)
        held = load_task(task, VALIDATION, limit=most or MOST_VALIDATION_ROWS, seed=seed) if own else None
        return train, held
    # More would make a short run spend most of its time on them.
    held_out = most or min(MOST_VALIDATION_ROWS, max(1, limit // 4))
    train, more = load_draws(task, "train", [limit, limit + held_out], source=source, seed=seed)
    shown = set(train["row"][:])
    left = [index for index, row in enumerate(more["row"][:]) if row not in shown]
    return train, more.select(left) if left else None


def check_model_path(argument: str, value: str) -> None:
    """Refuse a path that is no model folder; a name on the hub (`owner/name`) is left to the hub.

    Raises:
        FileNotFoundError: names the argument and what was looked for.
        ValueError: it is a GGUF file.
    """
    path = Path(value).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        raise ValueError(
            f"{argument}={value!r} is a GGUF file: set {argument} to its folder and gguf_file to {path.name!r}"
        )
    looks_like_path = path.is_absolute() or value.startswith((".", "~")) or value.count("/") > 1 or path.exists()
    if looks_like_path and not (path / "config.json").is_file():
        raise FileNotFoundError(f"{argument}={value!r} is not a model folder: there is no {path / 'config.json'}")


def _test_rows(task: Task, arguments: RunArguments, seed: int) -> Dataset | None:
    source = _task_source(task, arguments)
    if "test" not in available_splits(task, source):
        return None
    rows = load_task(task, "test", source=source, limit=arguments.eval_limit, seed=seed, require_completion=False)
    return rows if "completion" in rows.column_names else None


def _forgetting_source(task: Task, arguments: RunArguments, seed: int) -> ForgettingSource:
    source = _task_source(task, arguments)
    rows = load_task(
        task, "train", source=source, limit=arguments.forgetting_limit, seed=seed, require_completion=False
    )
    return ForgettingSource(
        prompts=rows.select_columns([name for name in ("prompt", OPTIONS_COLUMN) if name in rows.column_names]),
        test=_test_rows(task, arguments, seed),
        kind=None,
        task=task,
        row_kinds=_row_kinds(rows),
        answers=_answers(rows),
        rows=row_names(rows),
    )


def row_names(rows: Dataset) -> list[str] | None:
    """What `load_task` calls each row; none for rows of a world."""
    return rows["row"][:] if "row" in rows.column_names else None


def _answers(rows: Dataset) -> Dataset | None:
    if "completion" not in rows.column_names:
        return None
    return rows.select_columns([name for name in ("prompt", "completion", SCORE_COLUMN) if name in rows.column_names])


def _world_sources(arguments: RunArguments, name: str, model: str | None, seed: int) -> Sources:
    difficulty = arguments.world_difficulty()
    world = load_world(name, difficulty)
    if model is None:
        base, never_knew = (
            str(world_checkpoint(name, which, difficulty, arguments.world_seed)) for which in get_args(Checkpoint)
        )
    else:
        if difficulty.changes_models or arguments.world_seed != 0:
            raise ValueError(
                f"model_name_or_path={model!r} names models that are built already: remove it, or remove "
                "world_seed, and pretraining_steps and label_noise of world_options"
            )
        # A folder that `graceful world build` wrote, with both models inside.
        base, never_knew = str(Path(model) / "base"), str(Path(model) / "never_knew")
        check_model_path("model_name_or_path", base)
        check_model_path("model_name_or_path", never_knew)
    held_out = world.learning_test if arguments.world_split == "test" else world.learning_validation
    return Sources(
        model=base,
        never_knew=never_knew,
        learning_name=name,
        learning_train=_limited(world.learning_train, arguments.learning_limit, seed),
        learning_test=_limited(held_out, arguments.eval_limit, seed),
        learning_task=None,
        forgetting={
            task: ForgettingSource(
                prompts=_limited(rows, arguments.forgetting_limit, seed).select_columns(["prompt"]),
                test=_limited(rows, arguments.eval_limit, seed),
                kind=world.kinds[task],
                task=None,
                row_kinds=_row_kinds(rows),
                answers=_answers(_limited(rows, arguments.forgetting_limit, seed)),
            )
            for task, rows in _chosen_tasks(world, arguments.forgetting_tasks).items()
        },
        learning_validation=_limited(world.learning_validation, arguments.eval_limit, seed),
    )


def _chosen_tasks(world: World, names: list[str] | None) -> dict[str, Dataset]:
    for name in names or []:
        if name not in world.forgetting:
            near = get_close_matches(name, world.forgetting, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"forgetting_tasks names {name!r}, which world {world.name!r} does not have: {hint}"
                f"It has {', '.join(world.forgetting)}"
            )
    return {name: rows for name, rows in world.forgetting.items() if names is None or name in names}


def _row_kinds(rows: Dataset) -> dict[str, str]:
    if "kind" not in rows.column_names:
        return {}
    return {prompt_text(prompt): kind for prompt, kind in zip(rows["prompt"][:], rows["kind"][:], strict=True)}


def prompt_text(prompt: str | list[dict[str, str]]) -> str:
    """A prompt as the text that names it, also where it is a conversation."""
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)


def _limited(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    if limit is None or limit >= len(rows):
        return rows
    return rows.shuffle(seed=seed).select(range(limit))
