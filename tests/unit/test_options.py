"""Prompts that name their options: the answer is the likeliest one, by a slow sum over its tokens."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, concatenate_datasets

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.elicitation import elicit_self_knowledge
from graceful_forgetting.runs.inputs import _with_options
from graceful_forgetting.tasks import load_task

OPTIONS = [["w3", "w9 w4"], ["w20", "w21 w22", "w5"], None, ["w7", "w8"]]


def config(**changes: Any) -> ElicitationConfig:
    return dataclasses.replace(ElicitationConfig(batch_size=2, max_new_tokens=4), **changes)


def pool(options: list[list[str] | None]) -> Dataset:
    return Dataset.from_dict({"prompt": [f"w{11 + i} w12 " for i in range(len(options))], "options": options})


@pytest.fixture
def model(make_model: Any) -> Any:
    return make_model(initializer_range=0.3).eval()


def slow_likeliest(model: Any, tokenizer: Any, prompt: str, options: list[str]) -> tuple[str, float]:
    """The option with the highest log p, its end included, and the mean of it over the tokens."""
    found = {}
    start = len(tokenizer(prompt)["input_ids"])
    for text in options:
        ids = tokenizer(prompt + text + tokenizer.eos_token)["input_ids"]
        with torch.no_grad():
            log_probs = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        own = [log_probs[place - 1, ids[place]].item() for place in range(start, len(ids))]
        found[text] = (sum(own), sum(own) / len(own))
    best = max(found, key=lambda text: found[text][0])
    return best, found[best][1]


def test_the_likeliest_option_is_the_answer(model: Any, tokenizer: Any) -> None:
    rows = elicit_self_knowledge(model, tokenizer, pool(OPTIONS), config())
    free = elicit_self_knowledge(model, tokenizer, pool(OPTIONS).remove_columns("options"), config())
    assert "options" not in rows.column_names
    for row, options in zip(rows, OPTIONS, strict=True):
        if options is None:
            (generated,) = [other for other in free if other["prompt"] == row["prompt"]]
            assert row["input_ids"] == generated["input_ids"]
            continue
        text, mean = slow_likeliest(model, tokenizer, row["prompt"], options)
        assert row["completion"].strip() == text
        assert row["mean_log_probability"] == pytest.approx(mean, rel=1e-4)
        answer = tokenizer(text + tokenizer.eos_token)["input_ids"]
        assert [label for label in row["labels"] if label != -100] == answer
        assert row["finish_reason"] == "stop"
    assert len({row["completion"] for row in rows}) > 1


def test_batches_and_shards_do_not_matter(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    one = elicit_self_knowledge(model, tokenizer, pool(OPTIONS), config(batch_size=1))
    many = elicit_self_knowledge(model, tokenizer, pool(OPTIONS), config(batch_size=8), resume_dir=tmp_path)
    again = elicit_self_knowledge(model, tokenizer, pool(OPTIONS), config(batch_size=8), resume_dir=tmp_path)
    assert one["input_ids"][:] == many["input_ids"][:] == again["input_ids"][:]
    # Other options are other answers, and not those of the shards.
    others = elicit_self_knowledge(
        model, tokenizer, pool([["w30", "w31"]] * 4), config(batch_size=8), resume_dir=tmp_path
    )
    assert {text.strip() for text in others["completion"]} <= {"w30", "w31"}


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ([["w3"]], {}, r"row 0 has options=\['w3'\]: give at least two texts"),
        ([["w3", "w3"]], {}, "all different and none empty"),
        ([["w3", " "]], {}, "all different and none empty"),
        (
            [None, ["w3", "w4"]],
            {"num_samples_per_prompt": 2, "temperature": 1.0},
            "^num_samples_per_prompt=2, and prompts: row 1 has options",
        ),
    ],
)
def test_options_that_cannot_be_chosen_from_are_refused(
    model: Any, tokenizer: Any, options: list[list[str] | None], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        elicit_self_knowledge(model, tokenizer, pool(options), config(**changes))


def task_file(folder: Path, more: str) -> Path:
    (folder / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    path = folder / "task.yaml"
    path.write_text(f"data: rows.jsonl\ncolumns: [text]\nprompt: '{{{{ text }}}}'\n{more}")
    return path


def test_a_yaml_task_names_options(tmp_path: Path) -> None:
    rows = load_task(task_file(tmp_path, "options: [good, bad]\n"), require_completion=False)
    assert rows["options"][:] == [["good", "bad"]] * 2


def test_rows_of_ones_own_name_options(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text('{"prompt": "Well?", "options": ["good", "bad"]}\n')
    assert load_task(path, require_completion=False)["options"][:] == [["good", "bad"]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "Well?", "options": ["good"]}', r"pool.jsonl:1: options=\['good'\] must be at least two texts"),
        ('{"prompt": "Well?", "options": "good"}', "options='good' must be a list of texts"),
        (
            '{"prompt": "Well?", "completion": "good", "options": ["good", "bad"]}',
            "the row has a completion: remove one",
        ),
    ],
)
def test_a_wrong_option_is_named_by_line(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "pool.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(ValueError, match=message):
        load_task(path, require_completion=False)


def test_options_beside_a_completion_are_an_error(tmp_path: Path) -> None:
    path = task_file(tmp_path, "completion: '{{ text }}'\noptions: [good, bad]\n")
    with pytest.raises(
        ValueError, match=r"task.yaml: key 'options' is \['good', 'bad'\]: .*remove them or the completion"
    ):
        load_task(path)


def test_a_task_with_options_mixes_with_one_without() -> None:
    rows = _with_options(Dataset.from_dict({"prompt": ["a"]}))
    mixed = concatenate_datasets([rows, Dataset.from_dict({"prompt": ["b"], "options": [["x", "y"]]})])
    assert mixed["options"][:] == [None, ["x", "y"]]
