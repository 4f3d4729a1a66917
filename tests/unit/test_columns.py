"""Data sets that hold something else than their argument says, before any row is tokenised."""

import inspect
import logging

import pytest
from datasets import Dataset, DatasetDict
from trl import SFTTrainer

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.training.columns import check_columns, check_forget_dataset
from graceful_forgetting.training.preparation import combine_forget_datasets

PAIRS = {"prompt": "w1", "completion": " w2"}
PROMPT = {"prompt": "w1"}
ASKED = {"question": "w1", "answer": " w2"}
TEXT = {"text": "w1 w2"}
USER, SAID = {"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}


def rows(row, forgetting=False) -> Dataset:
    made = Dataset.from_list([row, row])
    return combine_forget_datasets(made) if forgetting else made


def check(train, held_out=None, forget=PROMPT, formatted=False, **settings) -> None:
    args = LWFConfig(output_dir="unused", use_cpu=True, report_to=[], **settings)
    held_out = None if held_out is None else rows(held_out)
    check_columns(args, rows(train), held_out, rows(forget, forgetting=True), formatted)


@pytest.mark.parametrize(
    "given",
    [
        {"train": PAIRS},
        {"train": PAIRS, "held_out": {"messages": [USER, SAID]}, "forget": PAIRS},
        {"train": {"input_ids": [1, 2]}, "forget": {"messages": [USER, SAID]}},
        {"train": {"document": "w1"}, "dataset_text_field": "document"},
        {"train": ASKED, "formatted": True},
        {"train": PAIRS, "forget": TEXT, "forget_answers": "given"},
        {"train": PAIRS, "forget": {**TEXT, "forgetting_confidence": 1.0}},
    ],
    ids=str,
)
def test_what_is_right_is_taken_without_a_word(given, caplog):
    with caplog.at_level(logging.WARNING):
        check(**given)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"train": PROMPT, "forget": PAIRS},
            r"train_dataset has no answers to learn \(columns prompt\), and forget_dataset has answers: .*swapped",
        ),
        ({"train": PROMPT, "forget": TEXT}, "they seem to be swapped"),
        (
            {"train": ASKED},
            r"train_dataset has no answers .*has question, answer: pass train_dataset\.rename_columns\("
            r"{'question': 'prompt', 'answer': 'completion'}\)",
        ),
        ({"train": {"instruction": "w1", "output": "w2"}}, "{'instruction': 'prompt', 'output': 'completion'}"),
        ({"train": {"prompt": "w1", "response": "w2"}}, r"rename_columns\({'response': 'completion'}\)"),
        ({"train": {"question": "w1", "completion": "w2"}}, r"rename_columns\({'question': 'prompt'}\)"),
        ({"train": {**PROMPT, **TEXT}}, "train_dataset has no answers to learn"),
        ({"train": PROMPT}, "train_dataset has no answers to learn: it needs .*dataset_text_field='text', and has"),
        ({"train": PAIRS, "held_out": PROMPT}, "eval_dataset has no answers to learn"),
        ({"train": PAIRS, "held_out": ASKED}, r"pass eval_dataset\.rename_columns"),
        (
            {"train": PAIRS, "forget": TEXT},
            "forget_dataset has a column `text` and no `prompt`: .*they are prompts, pass forget_dataset.rename",
        ),
        (
            {"train": PAIRS, "forget": {"messages": [USER]}},
            "forget_dataset: row 0 ends with a turn of the user in `messages`",
        ),
        (
            {"train": PAIRS, "forget": {"conversations": [{"from": "human", "value": "w1"}]}},
            "forget_dataset: row 0 ends with a turn of the user in `conversations`",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_names_its_argument_and_the_remedy(given, message):
    with pytest.raises(ValueError, match=message):
        check(**given)


def test_of_several_held_out_sets_the_wrong_one_is_named():
    args = LWFConfig(output_dir="unused", use_cpu=True, report_to=[])
    with pytest.raises(ValueError, match=r"^eval_dataset\['b'\] has no answers"):
        check_columns(args, rows(PAIRS), {"a": rows(PAIRS), "b": rows(ASKED)}, None, False)


def test_texts_beside_texts_may_be_answers_and_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        check(TEXT, forget=TEXT)
    assert "If the texts are prompts, pass forget_dataset.rename_column" in caplog.text


def test_questions_to_forget_are_to_be_renamed():
    args = LWFConfig(output_dir="unused", use_cpu=True, report_to=[])
    with pytest.raises(ValueError, match=r"forget_dataset\.rename_columns\({'question': 'prompt', 'answer': 'comp"):
        check_forget_dataset(rows(ASKED, forgetting=True), args)


def test_splits_are_no_forgetting_tasks():
    with pytest.raises(ValueError, match=r"DatasetDict with the splits train, test, .*load it with split='train'"):
        combine_forget_datasets(DatasetDict(train=rows(PROMPT), test=rows(PROMPT)))


def test_splits_are_no_learning_rows():
    args = LWFConfig(output_dir="unused", use_cpu=True, report_to=[])
    splits = DatasetDict(train=rows(PAIRS), test=rows(PAIRS))
    with pytest.raises(ValueError, match=r"^train_dataset is a DatasetDict with the splits train, test: pass one of"):
        check_columns(args, splits, None, None, False)


def test_the_trainer_refuses_before_it_loads_a_model(tmp_path):
    with pytest.raises(ValueError, match="they seem to be swapped"):
        LWFTrainer("no/such-model", LWFConfig(str(tmp_path)), train_dataset=rows(PROMPT), forget_dataset=rows(PAIRS))


def test_the_trainer_has_the_arguments_of_trls():
    """What an editor completes: each of TRL's, in its order and with its default, and two of ours."""
    ours, theirs = (inspect.signature(trainer.__init__).parameters for trainer in (LWFTrainer, SFTTrainer))
    assert {"train_dataset", "eval_dataset", "peft_config", "forget_dataset"} <= set(ours)
    assert [*ours] == [*theirs, "forget_dataset", "preparation"]
    assert all(ours[name].default == theirs[name].default for name in theirs)
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in ours.values())
    assert all(parameter.annotation is not parameter.empty for name, parameter in ours.items() if name != "self")
