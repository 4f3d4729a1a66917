"""A chat model is spoken to in turns, in every stage of a run on rows of plain text."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from graceful_forgetting.evaluation import lm_eval
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.recipe import recipe_from_fields
from graceful_forgetting.runtime.artifacts import read_json
from graceful_forgetting.runtime.store import read_rows
from graceful_forgetting.sweeps.scores import kinds_of

TEMPLATE = (
    "{% for m in messages %}{{ '<bos> ' + m['role'] + ' ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos> assistant ' }}{% endif %}"
)


def write_rows(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path.parent)


@pytest.fixture
def fields(tmp_path, tokenizer, make_model):
    """Multiple choice and prompts as plain text, and a model whose tokenizer has a template."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.add_tokens(["system", "user", "assistant"])
    tokenizer.eos_token, tokenizer.chat_template = "<|im_end|>", TEMPLATE
    make_model(vocab_size=68, eos_token_id=64).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": f"w{i} ", "completion": f" w{i + 20} w{i + 21}", "choices": [f" w{i + 20} w{i + 21}", f" w{i}"]}
        for i in range(8)
    ]
    write_rows(tmp_path / "learn" / "train.jsonl", rows)
    learn = write_rows(tmp_path / "learn" / "test.jsonl", rows)
    forget = write_rows(tmp_path / "forget" / "train.jsonl", [{"prompt": f"w{i} w{i + 1}"} for i in range(30, 50)])
    return {
        "model_name_or_path": str(tmp_path / "model"),
        "learning_task": learn,
        "forgetting_tasks": [forget],
        "output_dir": str(tmp_path / "run"),
        "max_steps": 60,
        "learning_rate": 0.02,
        "evaluation_batch_size": 8,
        "eval_max_new_tokens": 4,
        "elicitation_max_new_tokens": 4,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "warmup_steps": 0,
        "save_strategy": "no",
        "unlearn_every": 20,
    }


def pipeline(fields: dict) -> Pipeline:
    return Pipeline(*recipe_from_fields(fields, "test"))


def test_every_stage_speaks_through_the_template(fields):
    run = pipeline(fields)
    tokenizer = run.inputs.tokenizer
    # Learning.
    learned = run.inputs.learning_rows[0]
    said = ["<bos>", "user", "w0", "<|im_end|>", "<bos>", "assistant", "w20", "w21", "<|im_end|>"]
    assert tokenizer.convert_ids_to_tokens(learned["input_ids"]) == said
    counted = [token for token, label in zip(learned["input_ids"], learned["labels"], strict=True) if label != -100]
    assert tokenizer.convert_ids_to_tokens(counted) == ["w20", "w21", "<|im_end|>"]
    # Elicitation.
    knowledge = read_rows(run.method.self_knowledge().path / "rows")
    assert knowledge[0]["prompt"] == [{"role": "user", "content": "w30 w31"}]
    asked = tokenizer.convert_tokens_to_ids(["<bos>", "user", "w30", "w31", "<|im_end|>", "<bos>", "assistant"])
    assert knowledge[0]["input_ids"][:7] == asked
    assert len(knowledge) == 20
    # Evaluation: what is learned by heart is right, read without the end of the turn, which counts as a token.
    folder = run.evaluation("plain", run.seeds[0]).path
    items, metrics = read_json(folder / "items.json")["learn"], read_json(folder / "metrics.json")["learn"]
    assert items["generated"] == [f"w{i + 20} w{i + 21}" for i in range(8)]
    assert (items["tokens"], items["bytes"]) == ([3] * 8, [7] * 8)
    assert max(items["nats"]) < 0.5
    assert (metrics["correct"], metrics["choice"]["accuracy"]) == (8, 1.0)


def test_what_was_learned_by_heart_is_counted_where_it_is_the_old_answer(fields, tmp_path):
    rows = [{"prompt": f"w{i}", "completion": " w5", "old_answer": f" w{i + 20} w{i + 21}<|im_end|>"} for i in range(8)]
    rows[0] = {"prompt": "w0", "completion": " w20 w21", "old_answer": " w5"}
    further = write_rows(tmp_path / "further" / "test.jsonl", rows)
    run = pipeline({**fields, "evaluation_tasks": [further]})
    folder = run.evaluation("plain", run.seeds[0]).path
    items, metrics = (read_json(folder / f"{name}.json")["further"] for name in ("items", "metrics"))
    assert (metrics["correct"], metrics["old"]) == (1, 7)
    assert items["old"] == [False] + [True] * 7
    assert read_json(folder / "metrics.json")["learn"]["old"] is None


def test_plain_means_plain_and_a_system_prompt_stands_first(fields):
    plain = pipeline({**fields, "prompt_style": "plain"}).inputs
    assert plain.learning_rows[0]["input_ids"] == plain.tokenizer("w0  w20 w21<|im_end|>")["input_ids"]
    briefed = pipeline({**fields, "system_prompt": "w59"}).inputs
    ids = briefed.learning_rows[0]["input_ids"]
    assert briefed.tokenizer.convert_ids_to_tokens(ids)[:4] == ["<bos>", "system", "w59", "<|im_end|>"]
    fingerprints = [inputs.data_fingerprints["learning_train"] for inputs in (plain, briefed, pipeline(fields).inputs)]
    assert len(set(fingerprints)) == 3


def test_kinds_of_single_rows_and_further_tasks_are_found_in_turns_too(fields, tmp_path):
    rows = [{"prompt": f"w{i} w{i + 1}", "kind": "conflicting" if i < 35 else "neutral"} for i in range(30, 40)]
    forget = write_rows(tmp_path / "kinds" / "train.jsonl", rows)
    further = write_rows(tmp_path / "further" / "test.jsonl", [{"prompt": "w1", "completion": " w2"}])
    run = pipeline({**fields, "forgetting_tasks": [forget], "evaluation_tasks": [further], "system_prompt": "w59"})
    knowledge = read_rows(run.method.self_knowledge().path / "rows").add_column("forgetting_confidence", [0.0] * 10)
    assert kinds_of(knowledge, run.inputs.sources.forgetting) == ["conflicting"] * 5 + ["neutral"] * 5
    assert run.inputs.test_sets["further"][0][0]["completion"] == [{"role": "assistant", "content": "w2"}]


def test_a_task_may_have_a_system_prompt_of_its_own(fields, tmp_path):
    write_rows(tmp_path / "further" / "test.jsonl", [{"asked": "w1", "said": "w2"}])
    described = {"data": "further", "columns": ["asked", "said"], "prompt": "{{ asked }}", "completion": "{{ said }}"}
    named = {}
    for name, own in (("further", {}), ("other", {"system_prompt": "w58"})):
        named[name] = str(tmp_path / f"{name}.yaml")
        Path(named[name]).write_text(yaml.safe_dump({**described, **own}))
    own = {**fields, "evaluation_tasks": list(named.values()), "system_prompt": "w59"}
    asked = {name: rows[0]["prompt"] for name, (rows, _, _) in pipeline(own).inputs.test_sets.items()}
    question = {"role": "user", "content": "w1"}
    assert asked["further"] == [{"role": "system", "content": "w59"}, question]
    assert asked["other"] == [{"role": "system", "content": "w58"}, question]
    with pytest.raises(ValueError, match=r"task 'other': system_prompt='w58' with prompt_style='plain'"):
        pipeline({**own, "system_prompt": None, "prompt_style": "plain"})


def test_without_a_template_rows_stay_as_they_are(fields):
    tokenizer = AutoTokenizer.from_pretrained(fields["model_name_or_path"])
    tokenizer.chat_template = None
    Path(fields["model_name_or_path"], "chat_template.jinja").unlink()
    tokenizer.save_pretrained(fields["model_name_or_path"])
    inputs = pipeline(fields).inputs
    assert inputs.sources.learning_train[0]["prompt"] == "w0 "
    with pytest.raises(ValueError, match="prompt_style='chat'"):
        pipeline({**fields, "prompt_style": "chat"})


def test_the_harness_is_asked_in_turns_too(make_model, tokenizer, monkeypatch):
    pytest.importorskip("lm_eval")
    seen: dict = {}
    monkeypatch.setattr("lm_eval.simple_evaluate", lambda _, **given: seen.update(given) or {"results": {}})
    monkeypatch.setattr(lm_eval, "_load_tasks", lambda tasks: (None, tasks))
    for turns, prompt in ((True, "Be brief."), (False, None)):
        lm_eval.evaluate_with_lm_eval(
            make_model(), tokenizer, ["a"], limit=1, batch_size=1, in_turns=turns, system_prompt=prompt
        )
        assert (seen["apply_chat_template"], seen["system_instruction"]) == (turns, prompt)


def test_a_pool_that_is_smaller_than_a_batch_stops_before_any_work(fields, tmp_path):
    run = pipeline({**fields, "per_device_unlearn_batch_size": 21})
    with pytest.raises(ValueError, match=r"per_device_unlearn_batch_size=21 .* 20 prompts get 20 answers.* at most 20"):
        run.train()
    assert run.directory.results == []
    # The same answer to the same prompt counts once, which is known when the model has answered.
    same = write_rows(tmp_path / "same" / "train.jsonl", [{"prompt": "w30 w31"}] * 19 + [{"prompt": "w40 w41"}])
    run = pipeline({**fields, "forgetting_tasks": [same], "per_device_unlearn_batch_size": 20})
    with pytest.raises(ValueError, match=r"per_device_unlearn_batch_size=20 .* 2 of 20 answers .* at most 2"):
        run.train()
    assert [stage.name for stage in run.directory.results] == ["self_knowledge"]
    run = pipeline({**fields, "per_device_unlearn_batch_size": 20, "max_steps": 1})
    run.train()
