"""Inputs that libraries answer late, in their own words or not at all: refused with exit code 2 before a model is read.

Each case has its field and what the message must say of value and remedy. Cases that are in fact usable say so.
"""

import json
import time

import pytest
import yaml

from graceful_forgetting.cli import main
from graceful_forgetting.config.values import check_value
from graceful_forgetting.evaluation import lm_eval
from graceful_forgetting.runs.recipe import recipe_fields, recipe_from_fields
from graceful_forgetting.runtime import hub

NAN, INF = float("nan"), float("inf")
PROMPTS = [{"prompt": f"w{number} w2", "completion": " w3"} for number in range(4)]


@pytest.fixture
def fields(tmp_path, make_model, tokenizer):
    """A valid recipe of a model with a context of 64 tokens."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name in ("learn", "forget"):
        folder = tmp_path / name
        folder.mkdir()
        for split in ("train", "test"):
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return {
        "model_name_or_path": str(tmp_path / "model"),
        "learning_task": str(tmp_path / "learn"),
        "forgetting_tasks": [str(tmp_path / "forget")],
        "output_dir": str(tmp_path / "out"),
        "max_steps": 2,
        "eval_max_new_tokens": 3,
        "elicitation_max_new_tokens": 3,
        "gradient_checkpointing": False,
    }


@pytest.fixture
def refuse(tmp_path, capsys):
    """Runs the text or bytes of a recipe; returns its one line of error."""

    def run(recipe: str | bytes, *flags: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(recipe.encode() if isinstance(recipe, str) else recipe)
        start = time.monotonic()
        code = main(["run", "--config", str(path), *flags])
        captured = capsys.readouterr()
        assert code == 2, captured.err
        assert time.monotonic() - start < 10
        assert "running" not in captured.out
        assert captured.err.startswith("graceful run: error: ")
        assert "Traceback" not in captured.err
        assert len(captured.err) < 1000
        assert not (tmp_path / "out" / "self_knowledge").exists()
        return captured.err

    return run


# Field -> value, and what the message says of it.
WRONG = [
    ("per_device_train_batch_size", 0, "at least 1"),
    ("per_device_eval_batch_size", -4, "at least 1"),
    ("per_device_unlearn_batch_size", 0, "at least 1"),
    ("evaluation_batch_size", 0, "at least 1"),
    ("gradient_accumulation_steps", 0, "at least 1"),
    ("dataloader_num_workers", -1, "0 or more"),
    ("learning_rate", INF, "finite"),
    ("learning_rate", NAN, "finite"),
    ("learning_rate", None, "a number; leave the field out for its default"),
    ("learning_rate", [1e-4], "a number"),
    ("learning_rate", -1e-4, "0 or more"),
    ("learning_rate", "fast", "a number"),
    ("max_steps", 2.7, "a whole number"),
    ("max_steps", True, "a whole number"),
    ("max_steps", 0, "at least 1, or -1"),
    ("max_steps", -7, "at least 1, or -1"),
    ("seed", -1, "from 0 to 2**32 - 1"),
    ("seed", 2**32, "from 0 to 2**32 - 1"),
    ("seed", 1.5, "a whole number"),
    ("seed", {"a": 1}, "a whole number"),
    ("num_seeds", True, "a whole number"),
    ("forget_fraction", 1.5, "in (0, 1]"),
    ("forget_fraction", NAN, "finite"),
    ("forget_count", 0, "at least 1"),
    ("forget_count", -3, "at least 1"),
    ("forget_quotas", "nope", "not valid JSON"),
    ("forget_quotas", {"forget": -1}, "['forget']=-1"),
    ("forget_quotas", {"forget": 1.5}, "a share must be in (0, 1]"),
    ("forget_quotas", {"forget": "all"}, "a mapping of names to numbers"),
    ("unlearn_every", 1.5, "a whole number"),
    ("confidence_step_size", INF, "at most 1e18"),
    ("confidence_step_size", 1e300, "at most 1e18"),
    ("confidence_step_size", 1e30, "at most 1e18"),
    ("confidence_scorer", "interferance", "did you mean 'interference'?"),
    ("confidence_scorer", 3, "one of lwf"),
    ("dtype", "float8", "did you mean 'float32'?"),
    ("lr_scheduler_type", "zigzag", "one of linear, cosine"),
    ("lr_scheduler_type", "cosin", "did you mean 'cosine'?"),
    ("optim", "adamw_tourch", "did you mean 'adamw_torch'?"),
    ("eval_strategy", "sometimes", "one of no, steps, epoch"),
    ("save_strategy", False, 'write "no" in quotation marks'),
    ("max_grad_norm", NAN, "finite"),
    ("num_train_epochs", 0, "above 0"),
    ("num_train_epochs", -1, "above 0"),
    ("num_train_epochs", NAN, "finite"),
    ("label_smoothing_factor", 2.0, "below 1"),
    ("adam_beta2", 1.0, "below 1"),
    ("warmup_steps", -2, "0 or more"),
    ("elicitation_max_new_tokens", 0, "at least 1"),
    ("model_name_or_path", 5, 'write "5" in quotation marks'),
    ("run_name", True, "in quotation marks"),
    ("output_dir", 5, 'write "5" in quotation marks'),
    ("learning_task", 7, 'write "7" in quotation marks'),
    ("forgetting_tasks", "forget.jsonl", "a list of text: write [forget.jsonl]"),
    ("forgetting_tasks", [["forget.jsonl"]], "a list of text"),
    ("world_options", {"train_share": NAN}, "finite"),
    ("use_lora", "perhaps", "true or false"),
    ("log_level", "foo", "one of debug, info"),
    ("truncation_mode", "keep_stat", "did you mean 'keep_start'?"),
    ("packing_strategy", "tight", "one of bfd"),
    ("gradient_checkpointing_kwargs", "reentrant", "not valid JSON"),
    ("lr_scheduler_kwargs", "[1]", "a mapping of names to values"),
    ("accelerator_config", "nowhere.json", "no such file"),
    ("accelerator_config", "", "no such file"),
    ("accelerator_config", "x" * 300, "no such file"),
    ("accelerator_config", {"split_batch": True}, "unexpected keyword argument 'split_batch'"),
    ("deepspeed", {"zero_optimization": {"stage": 2}}, "deepspeed"),
    ("ddp_backend", "glo", "did you mean 'gloo'?"),
    ("ddp_backend", "gloo", "for several processes"),
    ("ddp_timeout", -1, "at least 1"),
    ("ddp_bucket_cap_mb", 0, "at least 1"),
    ("fsdp", "everything", "Unknown"),
    ("pad_to_multiple_of", "eight", "invalid literal"),
    ("pad_to_multiple_of", -1, "at least 1"),
    ("run_name", "a\0b", "the character NUL"),
    ("confidence_scorer", "nowhere:Scorer", "cannot be imported"),
    ("unlearn_objective", "json:loads", "fails on the settings"),
    ("unlearn_objective", "json:JSONDecoder", "it must be a subclass of Objective"),
    # Names of settings that there are no longer are unknown ones, with the nearest.
    ("elicitation_shard_size", 0, "unknown field"),
    ("elicitation_top_p", 2.0, "did you mean 'elicitation_"),
    ("posterior_parameter_pattern", "zzzz", "did you mean 'posterior_parameters'?"),
]


@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_no_field_takes_what_is_no_finite_number(fields, value):
    """Infinity turns the guard off, and is valid there alone."""
    for name in recipe_fields() - ({"guard_margin"} if value == INF else set()):
        with pytest.raises(ValueError, match=f"^recipe.yaml: {name}="):
            recipe_from_fields({**fields, name: value}, "recipe.yaml")


@pytest.mark.parametrize(("field", "value", "expected"), WRONG, ids=[f"{name}={value}" for name, value, _ in WRONG])
def test_a_value_that_its_field_cannot_have(fields, refuse, field, value, expected):
    message = refuse(yaml.safe_dump({**fields, field: value}))
    assert field in message
    assert expected in message


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("seed", "1.5", "invalid int value: '1.5'"),
        ("seed", "-1", "from 0 to 2**32 - 1"),
        ("learning_rate", "nan", "finite"),
        ("learning_rate", "inf", "finite"),
        ("num_train_epochs", "0", "above 0"),
        ("lr_scheduler_type", "cosin", "did you mean 'cosine'?"),
        ("dtype", "float8", "did you mean 'float32'?"),
        ("forget_quotas", '{"forget": NaN}', "NaN is no finite number"),
        ("forget_quotas", '{"forget": 1, "forget": 2}', "'forget' twice"),
        ("forget_quotas", "[" * 100_000, "not valid JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_a_flag_is_checked_as_a_field_is(fields, refuse, flag, value, expected):
    message = refuse(yaml.safe_dump(fields), f"--{flag}={value}")
    assert flag in message
    assert expected in message


def test_a_grid_names_where_its_value_stands():
    with pytest.raises(ValueError, match=r"^grid\.yaml, method lwf: max_steps=True is not valid: .* a whole number"):
        recipe_from_fields({"world": "shortcut", "max_steps": True}, "grid.yaml, method lwf")


@pytest.mark.parametrize(
    ("field", "value", "annotation"),
    [
        # YAML 1.1 reads 1e-4, without a dot, as text.
        ("learning_rate", "1e-4", float),
        ("learning_rate", 1, float),
        # The guard's way of saying never, on a command line without null.
        ("guard_margin", INF, float | None),
        ("packing", "yes", bool),
        ("max_length", None, int | None),
    ],
    ids=str,
)
def test_usable_values_are_taken(field, value, annotation):
    check_value(field, value, annotation)


def laughs() -> str:
    """Nine levels of ten aliases each: a thousand million values in ten lines."""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("max_steps: 2\nseed: 1\nseed: 7\n", "'seed' twice, in lines 2 and 3: keep one"),
        ("max_steps: 2\nworld_options: {split: test, split: validation}\n", "'split' twice"),
        ("max_steps: 2\nrun_name: café\n".encode("latin-1"), "line 2, is not UTF-8 text: save the file as UTF-8"),
        ("max_steps: 2\n".encode("utf-16"), "line 1, is not UTF-8 text: save the file as UTF-8"),
        ("learning_task: &a [*a]\n", "line 1: an alias stands for a value that contains it"),
        ("learning_task: " + "[" * 900, "recipe.yaml"),
        ("learning_task: " + "[" * 900 + "]" * 900, "nested more than 50 deep"),
        ("learning_task: " + "[" * 60 + "]" * 60, "line 1: lists or mappings are nested more than 50 deep"),
        (laughs(), "its aliases stand for more than 100000 values"),
        ("seed: " + "1" * 5000, "recipe.yaml"),
        ("run_name: 2026-99-99", "recipe.yaml"),
        ("run_name: !!python/object:os.system x", "not valid YAML"),
        ("- seed", "must hold keys and values"),
        ("env: 5", "env=5 is not valid: it must be a mapping"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_yaml_that_cannot_be_read(refuse, recipe, expected):
    message = refuse(recipe)
    assert "recipe.yaml" in message
    assert expected in message


def test_anchors_and_merges_are_usable(fields):
    from graceful_forgetting.runtime.yaml_file import read_mapping

    path = fields["model_name_or_path"] + ".yaml"
    with open(path, "w", encoding="utf-8-sig") as file:
        file.write("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n  z: 3\n")
    assert read_mapping(path, path)["c"] == {"x": 1, "y": 2, "z": 3}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eval_max_new_tokens": 1_000_000}, ("'learn'", "learn/test.jsonl:1", "set eval_max_new_tokens to at most 6")),
        ({"elicitation_max_new_tokens": 1000, "forget_answers": "self_generated"}, ("forget/train.jsonl:1", "at most")),
        ({"max_length": 2}, ("'learn'", "learn/train.jsonl:1", "max_length=2")),
        ({"posterior_parameters": "pattern:zzzz"}, ("posterior_parameters='pattern:zzzz' matches no", "named like")),
        ({"posterior_parameters": "last_blocks:99"}, ("99",)),
        ({"forget_quotas": {"forgett": 0.5}}, ("forget_quotas names 'forgett'", "did you mean 'forget'?")),
        ({"forget_quotas": {"forget": 5}}, ("forget_quotas['forget']=5 is more than its 4 samples",)),
        ({"forget_count": 99}, ("forget_count=99 is more than there is", "4 samples")),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, ("lr_scheduler_type='cosine_with_min_lr'", "min_lr_rate")),
        ({"lr_scheduler_kwargs": {"cycles": 3}}, ("lr_scheduler_kwargs={'cycles': 3}",)),
        ({"optim": "schedule_free_adamw"}, ("optim='schedule_free_adamw'", "install")),
        ({"report_to": ["wandbee"]}, ("report_to='wandbee' is not installed", "none")),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_go_with_the_model_or_the_data(fields, refuse, changes, expected):
    message = refuse(yaml.safe_dump({**fields, **changes}))
    assert [text for text in expected if text not in message] == [], message


def test_a_task_of_the_hub_that_cannot_be_had(fields, refuse):
    message = refuse(yaml.safe_dump({**fields, "learning_task": "gsm8k"}))
    assert "learning_task='gsm8k'" in message
    assert "data_source='sample'" in message


def test_a_model_of_the_hub_that_cannot_be_had(fields, refuse):
    message = refuse(yaml.safe_dump({**fields, "model_name_or_path": "nobody/nothing"}))
    assert "model_name_or_path='nobody/nothing'" in message
    assert "HF_HUB_OFFLINE is set" in message
    assert "graceful/base-text" in message


def test_a_hub_that_does_not_answer_is_known_in_seconds(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_unreachable", lambda: True)
    with pytest.raises(ConnectionError, match=r"nobody/nothing.*cannot be reached.*hf download"):
        hub.check_model_at_hand("model_name_or_path", "nobody/nothing", None)
    # Libraries that would retry read their caches alone.
    assert hub.constants.HF_HUB_OFFLINE
    assert hub.datasets.config.HF_HUB_OFFLINE


def test_tasks_of_the_harness_that_are_not_at_hand(monkeypatch):
    class Manager:
        def load(self, names):
            raise ConnectionError("Couldn't reach 'Rowan/hellaswag' on the Hub")

    monkeypatch.setattr(lm_eval, "_load_tasks", lambda tasks: (Manager(), list(tasks)))
    with pytest.raises(ConnectionError, match=r"lm_eval_tasks: the data of 'hellaswag' are not at hand .*leave it out"):
        lm_eval.check_lm_eval_tasks(["hellaswag"])
