"""Tokenisation agrees with TRL's SFTTrainer; padding and per-sample losses are exact."""

import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from graceful_forgetting.data import (
    collate,
    require_pad_token,
    tokenize_dataset,
    tokenize_prompt,
)

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "red", "blue", "user", "assistant", "system", ":"]
WORDS += ["what", "is", "it", "tools", "none"]
CHAT_TEMPLATE = (
    "{% if tools %}tools {% endif %}{% if prefix %}{{ prefix }} {% endif %}"
    "{% for message in messages %}{{ message['role'] + ' : ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %} <eos> {% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def make_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"} | special
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PROMPT_COMPLETION = [
    {"prompt": "what is red", "completion": " the cat"},
    {"prompt": "the dog sat on", "completion": " mat <eos>"},
    {"prompt": "it", "completion": " ran on the blue mat"},
]
CONVERSATIONAL = [
    {"prompt": user("what is red"), "completion": assistant("the cat")},
    {
        "prompt": [{"role": "system", "content": "blue"}, *user("the dog")],
        "completion": assistant("ran on it"),
    },
]
DATASETS = {
    "prompt_completion": PROMPT_COMPLETION,
    "conversational": CONVERSATIONAL,
    "tools": [row | {"tools": json.dumps([{"name": "none"}])} for row in CONVERSATIONAL],
    "template_kwargs": [row | {"chat_template_kwargs": {"prefix": "mat"}} for row in CONVERSATIONAL],
    "text": [{"text": "the cat sat"}, {"text": "the dog ran on <eos>"}],
    "messages": [{"messages": row["prompt"] + row["completion"]} for row in CONVERSATIONAL],
    "conversations": [
        {"conversations": [{"from": m["role"], "value": m["content"]} for m in row["prompt"] + row["completion"]]}
        for row in CONVERSATIONAL
    ],
    "assistant_masks": [
        {"input_ids": [3, 4, 5, 6], "assistant_masks": [0, 1, 0, 1]},
        {"input_ids": [7, 8, 9], "assistant_masks": [0, 0, 1]},
    ],
    "input_ids": [{"input_ids": [3, 4, 5]}, {"input_ids": [6, 7]}],
    "labels": [
        {"input_ids": [3, 4, 5], "labels": [-100, 4, -100]},
        {"input_ids": [6, 7], "labels": [-100, 7]},
    ],
}


def trl_rows(rows: list[dict], tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> list[dict]:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    # TRL still sets the old name of this field, which transformers warns of unless the new one is given.
    args = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", activation_checkpointing=False
    )
    trainer = SFTTrainer(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    return trainer.train_dataset.select_columns(["input_ids", "labels"]).to_list()


@pytest.mark.parametrize("kind", DATASETS)
def test_ids_and_labels_are_those_of_sft_trainer(kind, tokenizer, tmp_path):
    rows = DATASETS[kind]
    ours = tokenize_dataset(Dataset.from_list(rows), tokenizer)
    assert ours.select_columns(["input_ids", "labels"]).to_list() == trl_rows(rows, tokenizer, tmp_path)


def test_completion_mask_decides_the_labels(tokenizer):
    rows = [{"input_ids": [3, 4, 5, 6], "completion_mask": [0, 0, 1, 1], "assistant_masks": [1, 1, 1, 0], "k": 7}]
    result = tokenize_dataset(Dataset.from_list(rows))
    assert result.to_list() == [{"input_ids": [3, 4, 5, 6], "k": 7, "labels": [-100, -100, 5, -100]}]


def test_other_columns_are_kept(tokenizer):
    rows = [row | {"forgetting_task": str(index)} for index, row in enumerate(PROMPT_COMPLETION)]
    result = tokenize_dataset(Dataset.from_list(rows), tokenizer)
    assert result["forgetting_task"][:] == ["0", "1", "2"]
    assert result["prompt"][:] == [row["prompt"] for row in rows]


def test_tokenised_data_pass_through_without_a_tokenizer():
    rows = DATASETS["labels"]
    formatted = Dataset.from_list(rows).with_format("torch")
    assert tokenize_dataset(formatted).to_list() == rows


def test_prompt_ids_end_with_the_generation_prompt(tokenizer):
    ids = tokenize_prompt({"prompt": user("what is red")}, tokenizer)
    assert tokenizer.decode(ids) == "user : what is red assistant :"
    assert tokenize_prompt({"prompt": "what is red"}, tokenizer) == ids[2:5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"question": "a", "answer": "b"}],
            r"learning has none.*`prompt` \+ `completion`.*There are: question, answer",
        ),
        ([{"prompt": "the"}], r"no `completion`.*columns: prompt.*elicit_self_knowledge"),
        ([{"prompt": "the", "completion": "cat", "text": "x"}], r"more than one type: prompt, text"),
        ([{"prompt": "the", "completion": assistant("cat")}], "`prompt` is a str and `completion` a list"),
        (
            [{"prompt": "the", "completion": "a"}, {"prompt": "cat", "completion": None}],
            "row 1 has an empty or missing",
        ),
        ([{"messages": user("a")}, {"messages": []}], "row 1 has an empty or missing"),
        ([{"input_ids": [1, 2], "labels": [1, 2], "seq_lengths": [1, 1]}], "packing=False"),
        ([{"input_ids": [1, 2], "labels": [1]}], "row 0 has 2 input_ids but 1 labels"),
        ([{"input_ids": [1, 2], "labels": [1, -100]}], "row 0 has no token that counts"),
    ],
)
def test_bad_rows_are_refused(rows, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        tokenize_dataset(Dataset.from_list(rows), tokenizer, argument="learning")


def test_too_long_a_row_is_named_and_never_truncated(tokenizer):
    data = Dataset.from_list(PROMPT_COMPLETION)
    assert max(map(len, tokenize_dataset(data, tokenizer, max_length=7)["input_ids"])) == 7
    with pytest.raises(ValueError, match=r"row 2 has 7 tokens, more than max_length=6; raise max_length"):
        tokenize_dataset(data, tokenizer, max_length=6)


def test_missing_or_wrong_tokenizer_and_data_are_refused(tokenizer):
    data = Dataset.from_list(PROMPT_COMPLETION)
    with pytest.raises(ValueError, match="processing_class is None"):
        tokenize_dataset(data)
    with pytest.raises(TypeError, match="must be a tokenizer, not str"):
        tokenize_dataset(data, "gpt2")
    with pytest.raises(TypeError, match=r"must be a datasets\.Dataset, not list"):
        tokenize_dataset(PROMPT_COMPLETION, tokenizer)
    with pytest.raises(ValueError, match="has no rows"):
        tokenize_dataset(data.select([]), tokenizer)
    with pytest.raises(ValueError, match="with_transform"):
        tokenize_dataset(data.with_transform(lambda rows: rows), tokenizer)
    with pytest.raises(ValueError, match="no EOS token"):
        tokenize_dataset(data, make_tokenizer(eos_token=None))
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        tokenize_dataset(Dataset.from_list(CONVERSATIONAL), tokenizer)


def test_collate_pads_on_the_right():
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9], "labels": [-100, 9]}]
    batch = collate(rows, pad_token_id=0, device="cpu")
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 9, 0]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
        "labels": [[-100, 6, 7], [-100, 9, -100]],
    }


def test_collate_refuses_what_has_no_loss():
    with pytest.raises(ValueError, match="rows is empty"):
        collate([], 0)
    rows = [{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [5, 6], "labels": [5, -100]}]
    with pytest.raises(ValueError, match="row 1 of the batch"):
        collate(rows, 0)


def test_pad_token_falls_back_to_eos(caplog):
    tokenizer = make_tokenizer(pad_token=None)
    with caplog.at_level(logging.INFO, logger="graceful_forgetting"):
        assert require_pad_token(tokenizer) == tokenizer.eos_token_id
    assert "has no pad token" in caplog.text
    assert tokenizer.pad_token is None
    assert require_pad_token(make_tokenizer()) == 0


def test_neither_pad_nor_eos_token_is_an_error_with_the_fix():
    with pytest.raises(ValueError, match=r"no pad token and no EOS token.*add_special_tokens"):
        require_pad_token(make_tokenizer(pad_token=None, eos_token=None))
