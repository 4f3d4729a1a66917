"""Data sets in the wrong place, with columns of other names or in another form, seen before any row is tokenised."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data.answers import special_token_ids
from graceful_forgetting.data.turns import in_turns
from graceful_forgetting.training.preparation import ANSWERED, SCORE_COLUMN, needs_elicitation

logger = logging.getLogger(__name__)

# What other collections call a prompt and its completion.
_PROMPTS = ("question", "instruction", "query", "input", "problem")
_COMPLETIONS = ("answer", "response", "output", "target", "solution", "answers")
_USERS = ("user", "human")


def check_columns(
    args: LWFConfig,
    train_dataset: Dataset | IterableDataset | None,
    eval_dataset: Dataset | IterableDataset | Mapping[str, Any] | None,
    forget_dataset: Dataset | None,
    formatted: bool,
) -> None:
    """Refuse data sets that hold something else than their argument says.

    Args:
        args: settings of the run.
        train_dataset, eval_dataset: of the trainer, as the user passed them.
        forget_dataset: as `combine_forget_datasets` gives it.
        formatted: whether a `formatting_func` makes the text of learning rows, whatever their columns are.

    Raises:
        ValueError: names the argument, its columns and the remedy.
    """
    if train_dataset is None:
        return
    if isinstance(train_dataset, Mapping):
        raise ValueError(
            f"train_dataset is a DatasetDict with the splits {', '.join(train_dataset)}: pass one of them, or load it "
            "with split='train'"
        )
    forgetting = () if forget_dataset is None else forget_dataset.column_names
    sets = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
    learned = {"train_dataset": train_dataset}
    learned |= {f"eval_dataset[{name!r}]" if name else "eval_dataset": rows for name, rows in sets.items()}
    for argument, rows in learned.items():
        # A stream need not know its columns.
        columns = None if rows is None else rows.column_names
        if columns and not formatted:
            swapped = argument == "train_dataset" and _has_answers(forgetting)
            _check_learned(argument, columns, args.dataset_text_field, swapped)
    if forget_dataset is None or SCORE_COLUMN in forgetting or args.forget_answers is not None:
        return
    if "text" in forgetting and "prompt" not in forgetting:
        text = "forget_dataset has a column `text` and no `prompt`: every token of a text counts as an answer"
        remedy = 'forget_dataset.rename_column("text", "prompt"), and the model answers them itself'
        if formatted or args.dataset_text_field in (train_dataset.column_names or ()):
            logger.warning(f"{text}. If the texts are prompts, pass {remedy}")
        else:
            raise ValueError(
                f"{text}, and train_dataset has no texts. If they are prompts, pass {remedy}; if they are whole texts "
                "to forget, set forget_answers='given'"
            )
    for column in ("messages", "conversations"):
        if column in forgetting:
            _check_answered(forget_dataset, column)


def spoken_as_learned(
    forget_dataset: Dataset, train_dataset: Dataset | IterableDataset, processing_class: Any, formatted: bool
) -> Dataset:
    """The rows, with plain text in turns where learning rows are conversations: a model is asked as it is trained.

    Prompts that begin with a special token have been put through a template already, and stay.

    Args:
        forget_dataset: as `combine_forget_datasets` gives it.
        train_dataset: as the user passed it.
        processing_class: settled, as the trainer has it.
        formatted: whether a `formatting_func` makes text of the learning rows.
    """
    if formatted or "prompt" not in forget_dataset.column_names or not isinstance(forget_dataset[0]["prompt"], str):
        return forget_dataset
    if not isinstance(processing_class, PreTrainedTokenizerBase) or processing_class.chat_template is None:
        return forget_dataset
    learned = next(iter(train_dataset))
    if not any(isinstance(learned.get(name), list) for name in ("messages", "conversations", "prompt")):
        return forget_dataset
    special = tuple(processing_class.convert_ids_to_tokens(sorted(special_token_ids(processing_class))))
    if forget_dataset[0]["prompt"].startswith(special):
        return forget_dataset
    logger.info("The prompts of forget_dataset go through the chat template, as the conversations of train_dataset do.")
    return in_turns(forget_dataset)


def check_forget_dataset(forget_dataset: Dataset, args: LWFConfig) -> None:
    """Refuse, before a model is loaded, what cannot be scored or unlearned.

    Raises:
        ValueError: no usable columns.
    """
    columns = forget_dataset.column_names
    answers = None if SCORE_COLUMN in columns else args.forget_answers
    if answers == "given" and not set(ANSWERED) & set(columns):
        raise ValueError(
            f"forget_answers='given' needs answers in forget_dataset (columns {', '.join(ANSWERED)}); it has "
            f"{', '.join(columns)}. Add them, or use forget_answers='self_generated'"
        )
    if needs_elicitation(forget_dataset, answers) and "prompt" not in columns:
        raise ValueError(
            "forget_dataset needs a column `prompt` (the model answers itself), or answers as well (`prompt` and "
            f"`completion`, `messages`, or `input_ids` and `labels`); it has {', '.join(columns)}"
            f"{renaming('forget_dataset', columns)}"
        )


def renaming(argument: str, columns: Collection[str]) -> str:
    """The call that gives columns of other names ours, as the end of a message; empty where none is known."""
    found = {
        next((name for name in others if name in columns), None): ours
        for others, ours in ((_PROMPTS, "prompt"), (_COMPLETIONS, "completion"))
        if ours not in columns
    }
    named = {name: ours for name, ours in found.items() if name is not None}
    return f": pass {argument}.rename_columns({named})" if named else ""


def _has_answers(columns: Collection[str]) -> bool:
    return bool({*ANSWERED, *_COMPLETIONS}.intersection(columns))


def _check_learned(argument: str, columns: Collection[str], text_field: str, swapped: bool) -> None:
    if "input_ids" in columns or {"prompt", "completion"} <= {*columns}:
        return
    # Beside a prompt nothing else counts for TRL.
    if "prompt" not in columns and {"messages", "conversations", text_field}.intersection(columns):
        return
    listed = ", ".join(columns)
    if swapped and not _has_answers(columns):
        raise ValueError(
            f"train_dataset has no answers to learn (columns {listed}), and forget_dataset has answers: they seem to "
            "be swapped. train_dataset is what is learned; forget_dataset is what may be forgotten, of which prompts "
            "are enough"
        )
    raise ValueError(
        f"{argument} has no answers to learn: it needs `prompt` and `completion`, `messages`, or the column of "
        f"dataset_text_field={text_field!r}, and has {listed}{renaming(argument, columns)}"
    )


def _check_answered(rows: Dataset, column: str) -> None:
    for number, turns in enumerate(rows[column][:]):
        last = turns[-1] if turns else {}
        if last.get("role", last.get("from")) in _USERS:
            raise ValueError(
                f"forget_dataset: row {number} ends with a turn of the user in `{column}`, which would count as an "
                "answer. If the rows are prompts, pass "
                f'forget_dataset.rename_column("{column}", "prompt"), and the model answers them itself'
            )
