"""What `graceful` says when a recipe, a model or data are wrong, before any long work starts."""

import json
from pathlib import Path

import pytest
import yaml

from graceful_forgetting.cli import main


@pytest.fixture
def recipe(tmp_path, make_model, tokenizer, learning, forgetting):
    """Writes a valid recipe with changes; None removes a field."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for name, rows in (("learn", learning), ("forget", forgetting.select_columns(["prompt"]))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "model_name_or_path": str(tmp_path / "model"),
        "learning_task": str(tmp_path / "learn.jsonl"),
        "forgetting_tasks": [str(tmp_path / "forget.jsonl")],
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "gradient_checkpointing": False,
        "elicitation_max_new_tokens": 4,
    }

    def write(**changes) -> str:
        fields = {name: value for name, value in {**content, **changes}.items() if value is not None}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(fields))
        return str(path)

    return write


def refused(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "running" not in captured.out
    return captured.err


def test_unknown_field_in_yaml_suggests_the_nearest(recipe, capsys):
    message = refused(capsys, "run", "--config", recipe(unlearn_evry=3))
    assert "unlearn_evry" in message
    assert "'unlearn_every'" in message


def test_unknown_flag_suggests_the_nearest(recipe, capsys):
    message = refused(capsys, "run", "--config", recipe(), "--forget_fracton", "0.2")
    assert "forget_fracton" in message
    assert "'forget_fraction'" in message


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_fraction_out_of_range(recipe, capsys, fraction):
    message = refused(capsys, "run", "--config", recipe(forget_fraction=fraction))
    assert f"fraction={fraction}" in message
    assert "(0, 1]" in message


def test_missing_recipe(capsys):
    assert "there is no such file" in refused(capsys, "run", "--config", "nowhere.yaml")


def test_recipe_that_is_not_yaml(tmp_path, capsys):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2")
    assert "not valid YAML" in refused(capsys, "run", "--config", str(path))


def test_missing_model(recipe, capsys, tmp_path):
    message = refused(capsys, "run", "--config", recipe(model_name_or_path=str(tmp_path / "absent")))
    assert "model_name_or_path=" in message
    assert "config.json" in message


def test_no_model(recipe, capsys):
    assert "model_name_or_path is not set" in refused(capsys, "run", "--config", recipe(model_name_or_path=None))


def test_missing_data_file(recipe, capsys, tmp_path):
    message = refused(capsys, "run", "--config", recipe(learning_task=str(tmp_path / "absent.jsonl")))
    assert "absent.jsonl" in message


def test_wrong_columns_say_which_and_which_are_there(recipe, capsys, tmp_path):
    path = recipe()
    (tmp_path / "learn.jsonl").write_text('{"question": "w1", "answer": "w2"}\n')
    message = refused(capsys, "run", "--config", path)
    assert "missing: prompt" in message
    assert "answer, question" in message


def test_empty_forgetting_set(recipe, capsys, tmp_path):
    path = recipe()
    (tmp_path / "forget.jsonl").write_text("")
    assert "forget.jsonl" in refused(capsys, "run", "--config", path)


def test_prompt_longer_than_the_context(recipe, capsys, tmp_path):
    path = recipe()
    (tmp_path / "forget.jsonl").write_text(json.dumps({"prompt": "w1 " * 80}) + "\n")
    assert main(["elicit", "--config", path]) == 2
    message = capsys.readouterr().err
    assert "80" in message
    assert "64" in message
    assert not (tmp_path / "run" / "self_knowledge").exists()


def test_learning_example_longer_than_the_context(recipe, capsys, tmp_path):
    path = recipe()
    (tmp_path / "learn.jsonl").write_text(json.dumps({"prompt": "w1 " * 80, "completion": " w2"}) + "\n")
    assert main(["posterior", "--config", path]) == 2
    message = capsys.readouterr().err
    assert "64" in message
    assert not (tmp_path / "run" / "plain").exists() or not list((tmp_path / "run" / "plain").iterdir())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"packing": True, "packing_strategy": "wrapped"}, "packing_strategy='wrapped' cuts across learning examples"),
    ],
)
def test_what_learning_rows_cannot_be(recipe, capsys, settings, expected):
    assert expected in refused(capsys, "run", "--config", recipe(**settings))


def test_tokenizer_without_pad_and_eos(recipe, capsys, tmp_path):
    path = recipe()
    settings = tmp_path / "model" / "tokenizer_config.json"
    content = json.loads(settings.read_text())
    for name in ("pad_token", "eos_token"):
        content.pop(name)
    settings.write_text(json.dumps(content))
    (tmp_path / "model" / "special_tokens_map.json").unlink(missing_ok=True)
    assert main(["elicit", "--config", path]) == 2
    assert "pad_token" in capsys.readouterr().err


def test_output_dir_is_a_file(recipe, capsys, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert "output_dir" in refused(capsys, "run", "--config", recipe())
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"split_batches": "yes"}, "accelerator_config: split_batches='yes' is not valid: it must be true or false"),
        ({"gradient_accumulation_kwargs": {"steps": 2}}, "gradient_accumulation_kwargs={'steps': 2} is not valid"),
    ],
)
def test_what_accelerate_would_refuse_after_other_stages(recipe, capsys, value, expected):
    assert expected in refused(capsys, "run", "--config", recipe(accelerator_config=value))


def test_errors_of_several_fields_name_their_file_unless_a_flag_is_meant(recipe, capsys):
    path = recipe(bf16=True)
    assert f"--config {path}: bf16=True needs" in refused(capsys, "run", "--config", path)
    assert str(path) not in refused(capsys, "run", "--config", recipe(), "--bf16", "True")


def test_unlearning_off(recipe, capsys):
    assert "unlearn_every=0" in refused(capsys, "run", "--config", recipe(unlearn_every=0))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bf16": True}, "bf16=True needs an accelerator that computes in bfloat16"),
        ({"bf16_full_eval": True}, "bf16_full_eval=True needs an accelerator"),
        ({"bf16": True, "use_cpu": True, "dtype": "float16"}, "bf16=True with dtype='float16'"),
        ({"fp16": True, "unlearn_every": 0, "baseline": "ewc", "dtype": "float16"}, "fp16=True with dtype='float16'"),
        ({"fp16": True, "unlearn_every": 0, "baseline": "ewc", "dtype": "bfloat16"}, "fp16=True with dtype='bfloat16'"),
    ],
)
def test_types_that_do_not_go_together(recipe, capsys, settings, expected):
    assert expected in refused(capsys, "run", "--config", recipe(**settings))


def test_world_with_tasks(recipe, capsys):
    assert "brings its own" in refused(capsys, "run", "--config", recipe(world="shortcut"))


def test_world_without_such_a_forgetting_task_names_the_nearest(recipe, capsys):
    changes = {"world": "shortcut", "learning_task": None, "model_name_or_path": None, "forgetting_tasks": ["colour"]}
    message = refused(capsys, "run", "--config", recipe(**changes))
    assert "did you mean 'color'?" in message
    assert "species" in message


def test_non_finite_loss_names_the_step_and_keeps_the_checkpoint(recipe, capsys, tmp_path):
    path = recipe(
        max_steps=12, save_steps=2, learning_rate=1e30, max_grad_norm=0.0, lr_scheduler_type="constant_with_warmup",
        warmup_steps=4, confidence_scorer="lwf",
    )  # fmt: skip
    assert main(["posterior", "--config", path]) == 1
    message = capsys.readouterr().err
    assert "learning update" in message
    assert "nan" in message or "inf" in message
    saved = sorted(Path(tmp_path / "run" / "work" / "plain").rglob("checkpoint-*"))
    assert saved, "no checkpoint was kept"
    assert not (tmp_path / "run" / "plain" / "seed-42").exists()


def test_unknown_world_names_the_nearest(recipe, capsys):
    message = refused(
        capsys,
        "run",
        "--config",
        recipe(world="shortcat", learning_task=None, forgetting_tasks=None, model_name_or_path=None),
    )
    assert "did you mean 'shortcut'" in message


def test_a_built_world_is_not_overwritten_unasked(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert main(["world", "build", "shortcut", "--output_dir", str(tmp_path / "mine")]) == 2
    assert "mine" in capsys.readouterr().err
    assert main(["world", "build", "shortcut", "--output_dir", str(tmp_path / "mine"), "--overwrite"]) == 2
    assert "mine" in capsys.readouterr().err
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
