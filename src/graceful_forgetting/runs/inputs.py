"""What every stage of a run reads: rows, tokenizer, fingerprints; made on demand and once."""

import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, List, Value
from transformers import GenerationConfig

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import (
    assistant_template,
    context_length,
    fingerprint_tokenizer,
    labelled,
    settled_tokenizer,
    tokenize_dataset,
)
from graceful_forgetting.data.turns import speaks_in_turns
from graceful_forgetting.elicitation.options import OPTIONS_COLUMN
from graceful_forgetting.evaluation.rows import EvaluationRows
from graceful_forgetting.results.result import Role
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments, ModelLoader
from graceful_forgetting.runs.sources import Sources, load_sources, row_names, sources_in_turns
from graceful_forgetting.runtime.fingerprint import fingerprint_model, fingerprint_rows
from graceful_forgetting.runtime.hub import check_model_at_hand
from graceful_forgetting.tasks import Task, row_place, task_source
from graceful_forgetting.training.model_checks import check_causal
from graceful_forgetting.training.preparation import SCORE_COLUMN, combine_forget_datasets

logger = logging.getLogger(__name__)

# What errors call the rows that training is watched on.
_HELD_OUT = "learning_task, held-out rows"


def _all_counted(rows: dict[str, Any]) -> dict[str, Any]:
    return {"labels": rows["input_ids"]}


class RunInputs:
    """The data and models of a run.

    Args:
        run, lwf, model: the recipe.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: an unknown or unreadable source, or one that is not at hand.
    """

    def __init__(self, run: RunArguments, lwf: LWFConfig, model: ModelArguments):
        self.data_source = run.data_source
        self._lwf = lwf
        self.max_length = lwf.max_length
        self.assistant_only = lwf.assistant_only_loss
        self.prompts_count = lwf.completion_only_loss is False
        self.loader = ModelLoader(model, lwf.trust_remote_code, lwf.device, lwf.model_init_kwargs)
        if run.world is not None and model.gguf_file is not None:
            raise ValueError(
                f"gguf_file={model.gguf_file!r} cannot be used with world={run.world!r}, which has models of its own: "
                "remove one of them"
            )
        name = model.name_or_folder(lwf.model_init_kwargs)
        self.sources: Sources = load_sources(run, name, lwf.seed)
        if not Path(self.sources.model).is_dir():
            check_model_at_hand("model_name_or_path", self.sources.model, self.loader.revision)
        self.system_prompt = run.system_prompt
        self.in_turns = speaks_in_turns(run.prompt_style, run.system_prompt, self.tokenizer)
        for task in self.sources.tasks:
            try:
                speaks_in_turns(run.prompt_style, task.system_prompt, self.tokenizer)
            except ValueError as error:
                raise ValueError(f"task {task.name!r}: {error}") from error
        if self.in_turns:
            self.sources = sources_in_turns(self.sources, run.system_prompt)

    @cached_property
    def tokenizer(self) -> Any:
        """The one that every stage uses, and that is saved beside every model."""
        return settled_tokenizer(self.loader.tokenizer(self.sources.model), self._lwf)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        return fingerprint_tokenizer(self.tokenizer)

    @property
    def what_counts(self) -> dict[str, Any]:
        if not self.assistant_only:
            return {}
        return {"assistant_only": True, "chat_template": assistant_template(self.tokenizer)}

    @cached_property
    def learning_rows(self) -> Dataset:
        """Tokenised learning examples; one that `max_length` would cut or the context cannot hold is an error."""
        name, task, source = self.sources.learning_name, self.sources.learning_task, self.sources.learning_train
        place = self.place("learning_task", name, task, "train", row_names(source))
        rows = self._learned(
            tokenize_dataset(source, self.tokenizer, argument="learning_task", place=place, **self.what_counts)
        )
        limit = self.max_length
        lengths = pc.list_value_length(rows.with_format("arrow")["input_ids"][:]).to_pylist()
        position = max(range(len(lengths)), key=lengths.__getitem__)
        longest = lengths[position]
        if limit is not None and longest > limit:
            raise ValueError(
                f"{place(position)}: a learning example has {longest} tokens and max_length={limit} would cut it: "
                "raise max_length, or shorten it"
            )
        context = context_length(self.base_config)
        if context is not None and longest > context:
            raise ValueError(
                f"{place(position)}: a learning example has {longest} tokens, and the model's context holds {context}: "
                "shorten it or remove it"
            )
        return rows

    @cached_property
    def held_out_rows(self) -> Dataset | None:
        """Tokenised rows to watch training on: for validation, or else the test rows; none where there are neither."""
        # Not as text: TRL asks the first training row whether prompts count, and those have no prompt any more.
        if self.sources.learning_validation is not None:
            return self._learned(tokenize_dataset(self.sources.learning_validation, self.tokenizer, argument=_HELD_OUT))
        if self.sources.learning_test is None:
            return None
        # They are tokenised for evaluation already.
        given = self.evaluation_rows[self.sources.learning_name].given
        return self._learned(labelled(given, lambda index: f"{_HELD_OUT}: row {index}"))

    def place(
        self, what: str, name: str, task: Task | None, split: str, names: Sequence[str] | None
    ) -> Callable[[int], str]:
        """Names a row for a message, with file and line where there are such; `names` are those of `row_names`."""

        def named(index: int) -> str:
            if task is None or names is None:
                return f"{what} {name!r}, row {index if names is None else names[index]}"
            return f"{what} {name!r}, {row_place(task, split, task_source(task, self.data_source), names[index])}"

        return named

    def _learned(self, rows: Dataset) -> Dataset:
        """Tokens and labels of tokenised learning rows; with `completion_only_loss=False` every token is a label."""
        rows = rows.select_columns(["input_ids", "labels"])
        return rows.map(_all_counted, batched=True) if self.prompts_count else rows

    @cached_property
    def outlines(self) -> list[Any]:
        """The base model, and its twin where there is one, without their weights; their files were checked."""
        models = [self.sources.model, self.sources.never_knew]
        return [self.loader.outline(model) for model in models if model is not None]

    @property
    def base_config(self) -> Any:
        return self.outlines[0].config

    @cached_property
    def forgetting_prompts(self) -> Dataset:
        named = {name: source.prompts for name, source in self.sources.forgetting.items()}
        if any(OPTIONS_COLUMN in rows.column_names for rows in named.values()):
            # The parts must have the same columns; a row without options is answered freely.
            named = {name: _with_options(rows) for name, rows in named.items()}
        return combine_forget_datasets(named)

    @property
    def come_scored(self) -> bool:
        """Whether the forgetting tasks bring answers with scores, so that nothing is elicited or scored."""
        answers = [source.answers for source in self.sources.forgetting.values()]
        return all(rows is not None and SCORE_COLUMN in rows.column_names for rows in answers)

    @cached_property
    def forgetting_answers(self) -> Dataset:
        """The forgetting prompts with the answers that the data carry.

        Raises:
            ValueError: a forgetting task carries none.
        """
        given = {name: source.answers for name, source in self.sources.forgetting.items()}
        without = [name for name, rows in given.items() if rows is None]
        if without:
            raise ValueError(
                f"forget_answers='given', and the data of {', '.join(without)} carry no completions: add them, or set "
                "forget_answers='self_generated'"
            )
        return combine_forget_datasets({name: rows for name, rows in given.items() if rows is not None})

    def forgetting_fingerprint(self, *, given: bool) -> str:
        """Content hash of what self-knowledge is made from: the prompts, or the given answers as well."""
        if not given:
            return self.data_fingerprints["forgetting_prompts"]
        return fingerprint_rows(self.forgetting_answers, self.forgetting_answers.column_names)

    def base_model(self) -> Any:
        """The base model as it is in its folder; its fingerprint is known from then on."""
        model = self._base_model(self.sources.model)
        self.base_fingerprint = fingerprint_model(model)
        return model

    @cached_property
    def base_fingerprint(self) -> dict[str, Any]:
        return fingerprint_model(self._base_model(self.sources.model))

    @cached_property
    def never_knew_fingerprint(self) -> dict[str, Any] | None:
        path = self.sources.never_knew
        return None if path is None else fingerprint_model(self._base_model(path))

    def _base_model(self, path: str) -> Any:
        model = self.loader.base(path)
        check_causal(f"model_name_or_path={path!r}", model)
        return model

    @cached_property
    def data_fingerprints(self) -> dict[str, str]:
        """Content hashes of the rows of every data set, by name."""
        named = {"learning_train": self.sources.learning_train, "forgetting_prompts": self.forgetting_prompts}
        if self.sources.learning_test is not None:
            named["learning_test"] = self.sources.learning_test
        if self.sources.learning_validation is not None:
            named["learning_validation"] = self.sources.learning_validation
        for name, source in self.sources.forgetting.items():
            if source.test is not None:
                named[f"{name}_test"] = source.test
        named |= {f"{name}_test": rows for name, (rows, _) in self.sources.evaluation.items()}
        return {name: fingerprint_rows(rows, rows.column_names) for name, rows in named.items()}

    @cached_property
    def evaluation_rows(self) -> dict[str, EvaluationRows]:
        """The rows of `test_sets`, tokenised once for all models."""
        return {name: EvaluationRows(rows, self.tokenizer) for name, (rows, _, _) in self.test_sets.items()}

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """Of the base model."""
        try:
            return GenerationConfig.from_pretrained(self.sources.model, revision=self.loader.revision)
        except OSError:
            return GenerationConfig.from_model_config(self.base_config)

    @cached_property
    def test_sets(self) -> dict[str, tuple[Dataset, Role, Any]]:
        """Test rows, role and task by name, for every task with answers.

        A task that is learned and forgotten at once is tested under two names.
        """
        sets: dict[str, tuple[Dataset, Role, Any]] = {}
        if self.sources.learning_test is not None:
            sets[self.sources.learning_name] = (
                self.sources.learning_test,
                "learning",
                self.sources.learning_task,
            )
        for name, source in self.sources.forgetting.items():
            if source.test is not None:
                sets[name if name not in sets else f"{name} (forgetting)"] = (
                    source.test,
                    "forgetting",
                    source.task,
                )
        sets |= {name: (rows, "other", task) for name, (rows, task) in self.sources.evaluation.items()}
        if not sets:
            logger.warning("No task of this run has test rows with answers: nothing is evaluated")
        return sets


def _with_options(rows: Dataset) -> Dataset:
    if OPTIONS_COLUMN in rows.column_names:
        return rows
    return rows.add_column(OPTIONS_COLUMN, [None] * len(rows), feature=List(Value("string")))
