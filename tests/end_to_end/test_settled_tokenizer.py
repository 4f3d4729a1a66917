"""One tokenizer in every stage: the settings' EOS token, pad token and template, on a copy, before any row."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.data import fingerprint_tokenizer
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.recipe import recipe_from_fields
from graceful_forgetting.runtime.artifacts import read_json

# TRL deprecates the setting; while it is there, it counts.
pytestmark = pytest.mark.filterwarnings("ignore:.pad_token. is deprecated:FutureWarning")

TEMPLATE = (
    "{% for m in messages %}{{ '<bos> ' + m['role'] + ' ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos> assistant ' }}{% endif %}"
)
FIELDS = {
    "max_steps": 60,
    "learning_rate": 0.02,
    "per_device_train_batch_size": 8,
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


@pytest.fixture
def tokenizer(tokenizer):
    """With two more tokens, for models with 66."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|pad|>"]})
    return tokenizer


def write_rows(path: Path, rows: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path.parent)


@pytest.fixture
def fields(tmp_path, tokenizer, make_model):
    """A recipe whose learning task has its training rows for a test: they are learned by heart."""
    make_model(vocab_size=66).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"w{i}", "completion": f" w{i + 20} w{i + 21}"} for i in range(8)]
    write_rows(tmp_path / "learn" / "train.jsonl", rows)
    learn = write_rows(tmp_path / "learn" / "test.jsonl", rows)
    forget = write_rows(tmp_path / "forget" / "train.jsonl", [{"prompt": f"w{i} w{i + 1}"} for i in range(30, 50)])
    return {
        **FIELDS,
        "model_name_or_path": str(tmp_path / "model"),
        "learning_task": learn,
        "forgetting_tasks": [forget],
        "output_dir": str(tmp_path / "run"),
    }


def run(fields: dict) -> dict[str, float]:
    """Nats of every test answer by the plain arm, and what the stages said."""
    pipeline = Pipeline(*recipe_from_fields(fields, "test"))
    stage = pipeline.evaluation("plain", pipeline.seeds[0])
    return read_json(stage.path / "items.json")["learn"]["nats"]


@pytest.mark.parametrize("settings", [{"eos_token": "<|im_end|>"}, {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"}])
def test_a_set_learned_by_heart_is_known_by_heart_in_the_evaluation(fields, settings):
    nats = run({**fields, **settings})
    assert max(nats) < 0.5
    shutil.rmtree(Path(fields["output_dir"]) / "evaluation")
    assert run({**fields, **settings}) == nats


def test_every_folder_holds_the_settled_tokenizer_and_the_model_s_own_is_as_it_was(fields, tmp_path):
    recipe = recipe_from_fields({**fields, "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}, "test")
    pipeline = Pipeline(*recipe)
    settled = pipeline.inputs.tokenizer_fingerprint
    for arm in ("plain", "lwf"):
        saved = AutoTokenizer.from_pretrained(pipeline.arm(arm, pipeline.seeds[0]).path)
        assert (saved.eos_token, saved.pad_token) == ("<|im_end|>", "<|pad|>")
    assert fingerprint_tokenizer(pipeline.inputs.tokenizer) == settled
    assert AutoTokenizer.from_pretrained(tmp_path / "model").eos_token == "<eos>"


def test_the_key_of_every_stage_has_the_tokenizer(fields, tmp_path):
    def stages(**settings: str) -> dict[str, str]:
        pipeline = Pipeline(*recipe_from_fields({**fields, "max_steps": 1, **settings}, "test"))
        pipeline.evaluation("base", None)
        pipeline.evaluation("lwf", pipeline.seeds[0])
        return {stage.name: stage.key for stage in pipeline.directory.results}

    before, after = stages(), stages(eos_token="<|im_end|>")
    assert before.keys() == after.keys() >= {"self_knowledge", "scores", "selection", "evaluation/base"}
    assert not set(before.values()) & set(after.values())
    # The tokenizer in the model's folder counts as the settings do.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.eos_token = "<|pad|>"
    tokenizer.save_pretrained(tmp_path / "model")
    assert not set(stages().values()) & set(before.values())


def test_a_template_that_the_recipe_gives_serves_every_stage(fields, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATE)

    def said(role, content):
        return {"role": role, "content": content}

    rows = [{"messages": [said("user", f"w{i}"), said("assistant", f"w{i + 20} w{i + 21}")]} for i in range(8)]
    write_rows(tmp_path / "learn" / "train.jsonl", rows)
    write_rows(tmp_path / "learn" / "test.jsonl", rows)
    prompts = [{"messages": [said("user", f"w{i} w{i + 1}")]} for i in range(30, 50)]
    write_rows(tmp_path / "forget" / "train.jsonl", prompts)
    fields |= {"chat_template_path": str(template), "eos_token": "<|im_end|>"}
    nats = run(fields)
    assert max(nats) < 0.5
    shutil.rmtree(Path(fields["output_dir"]) / "evaluation")
    assert run(fields) == nats
    pipeline = Pipeline(*recipe_from_fields(fields, "test"))
    assert AutoTokenizer.from_pretrained(pipeline.arm("lwf", 42).path).chat_template == TEMPLATE
    before = pipeline.inputs.tokenizer_fingerprint
    template.write_text(TEMPLATE.replace("<bos> '", "'"))
    assert Pipeline(*recipe_from_fields(fields, "test")).inputs.tokenizer_fingerprint != before


@pytest.mark.parametrize("unlearns", [True, False])
def test_a_trainer_leaves_the_tokenizer_that_it_was_handed_alone(
    unlearns, make_model, tokenizer, learning, forgetting, tmp_path
):
    before = fingerprint_tokenizer(tokenizer)
    template = tmp_path / "chat.jinja"
    template.write_text(TEMPLATE)
    settings = {name: FIELDS[name] for name in ("bf16", "use_cpu", "report_to", "save_strategy")}
    args = LWFConfig(
        str(tmp_path),
        max_steps=2,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template_path=str(template),
        **settings,
    )
    trainer = LWFTrainer(
        make_model(vocab_size=66),
        args,
        train_dataset=learning,
        processing_class=tokenizer,
        forget_dataset=forgetting if unlearns else None,
    )
    assert trainer.train_dataset[0]["input_ids"][-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    trainer.train()
    assert fingerprint_tokenizer(tokenizer) == before
    own = trainer.processing_class
    assert (own.eos_token, own.pad_token, own.chat_template) == ("<|im_end|>", "<|pad|>", TEMPLATE)
    if unlearns:
        assert trainer.preparation.scored[0]["input_ids"][-1] == own.eos_token_id


def test_what_trl_grows_a_model_for_is_left_to_trl(make_model, tokenizer, learning, tmp_path):
    tokenizer.save_pretrained(tmp_path / "source")
    source = AutoTokenizer.from_pretrained(tmp_path / "source")
    source.add_special_tokens({"eos_token": "<|new|>"})
    source.chat_template = TEMPLATE
    source.save_pretrained(tmp_path / "source")
    rows = Dataset.from_list(
        [{"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]}] * 4
    )
    args = LWFConfig(str(tmp_path / "out"), bf16=False, use_cpu=True, chat_template_path=str(tmp_path / "source"))
    trainer = LWFTrainer(make_model(vocab_size=66), args, train_dataset=rows, processing_class=tokenizer)
    assert trainer.processing_class.eos_token == "<|new|>"
    assert trainer.model.vocab_size == 128
    assert tokenizer.eos_token == "<eos>"
