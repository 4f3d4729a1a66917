"""Rows and templates that do not go together, and lengths: refused with the place of the row and a remedy."""

import json

import pytest
from datasets import Dataset

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.cli import main
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.data.encoding import encode_rows
from graceful_forgetting.tasks.loading import load_draws, load_task

PLAIN = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }} {% endfor %}"
)
USER, ASSISTANT = {"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}
GOOD = {"prompt": [USER], "completion": [ASSISTANT]}
BAD = {"prompt": [USER, USER], "completion": [ASSISTANT]}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            ALTERNATING,
            r"row 1 has turns \(user, user, assistant\) that the chat template refuses: roles must alternate",
        ),
        ("{{ nothing.there }}", r"row 0 has turns .* cannot be filled in with: 'nothing' is undefined; correct"),
        ("{% for m in messages %}", r"chat template of the tokenizer is broken \(line 1: .*chat_template_path"),
    ],
)
def test_a_template_that_fails_is_said_with_its_row(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        tokenize_dataset(Dataset.from_list([GOOD, BAD]), tokenizer)


def test_conversations_together_have_the_tokens_of_each(tokenizer):
    tokenizer.chat_template = PLAIN
    rows = [GOOD, BAD, {**GOOD, "chat_template_kwargs": {"a": 1}}, {**GOOD, "chat_template_kwargs": {"a": 2}}]
    rows = [{"chat_template_kwargs": None, **row} for row in rows]
    assert encode_rows(rows, "prompt", tokenizer) == [encode_rows([row], "prompt", tokenizer)[0] for row in rows]


@pytest.fixture
def recipe(tmp_path, make_model, tokenizer):
    tokenizer.chat_template = ALTERNATING
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name in ("learn", "forget"):
        rows = [{"prompt": [USER]}] * 3 if name == "forget" else [GOOD] * 3
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *("run", "--model_name_or_path", str(tmp_path / "model"), "--learning_task", str(tmp_path / "learn.jsonl")),
        *("--forgetting_tasks", str(tmp_path / "forget.jsonl"), "--output_dir", str(tmp_path / "out")),
        *("--elicitation_max_new_tokens", "3", "--max_steps", "2"),
    ]


LONG = {"role": "user", "content": "w1 " * 100}


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("learn", BAD, "roles must alternate"),
        ("forget", {"prompt": [USER, USER]}, "roles must alternate"),
        ("learn", {"prompt": [LONG], "completion": [ASSISTANT]}, "the model's context holds 64"),
        ("forget", {"prompt": [LONG]}, "elicitation_max_new_tokens=3 does not fit"),
        ("learn", {"prompt": "", "completion": "a"}, "prompt='': it is empty or white space"),
    ],
)
def test_a_run_names_file_and_line(recipe, tmp_path, capsys, file, row, message):
    path = tmp_path / f"{file}.jsonl"
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    assert main(recipe) == 2
    error = capsys.readouterr().err
    assert message in error
    assert f"{path}:4" in error


def test_a_missing_template_is_refused_by_name(recipe, tmp_path, capsys):
    assert main([*recipe, "--chat_template_path", str(tmp_path / "none.jinja")]) == 2
    assert "chat_template_path=" in capsys.readouterr().err


def test_draws_of_several_sizes_are_those_of_single_ones(tmp_path):
    rows = "".join(json.dumps({"prompt": f"p{i}", "completion": f"c{i}"}) + "\n" for i in range(20))
    (tmp_path / "a.jsonl").write_text(rows)
    both = load_draws(tmp_path / "a.jsonl", "train", [5, 9], seed=3)
    assert [part.to_list() for part in both] == [
        load_task(tmp_path / "a.jsonl", limit=limit, seed=3).to_list() for limit in (5, 9)
    ]


@pytest.mark.parametrize("passed", [True, False])
def test_the_trainer_names_the_row(make_model, tokenizer, tmp_path, passed):
    tokenizer.chat_template = ALTERNATING
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="train_dataset: row 1 has turns" if passed else "a row of train_dataset"):
        LWFTrainer(
            str(tmp_path / "model"),
            LWFConfig(output_dir=str(tmp_path / "out")),
            train_dataset=Dataset.from_list([GOOD, BAD]),
            processing_class=tokenizer if passed else None,
        )
