"""Credentials reach neither files nor the screen."""

import copy
import json
import logging
import pickle

import pytest
import torch

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.config.values import check_value
from graceful_forgetting.posterior.reference import PlainTrainer
from graceful_forgetting.runtime.secrets import (
    SecretsFilter,
    public_arguments,
    public_settings,
    without_secrets,
)
from graceful_forgetting.training.stages import RunDirectory

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
PROXY = "http://user:pass-word@proxy.example:8080"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET {PROXY}/v1 failed", "GET http://<hidden>@proxy.example:8080/v1 failed"),
        ("https://token@host/x", "https://<hidden>@host/x"),
        (f"token {TOKEN}.", "token <hidden>."),
        ("Authorization: Bearer abc.def", "Authorization: Bearer <hidden>"),
        ("sk-proj-abcdefghijklmnop1234", "<hidden>"),
        ("mail me@example.org about https://host/a:b", "mail me@example.org about https://host/a:b"),
        ("hf_hub and sk-learn", "hf_hub and sk-learn"),
    ],
)
def test_text(text, shown):
    assert without_secrets(text) == shown


def test_settings_at_any_depth():
    settings = {
        "model_init_kwargs": {"token": "s", "proxies": {"https": PROXY}, "revision": "main"},
        "eos_token": "</s>",
    }
    assert public_settings(settings) == {
        "model_init_kwargs": {
            "token": "<hidden>",
            "proxies": {"https": "http://<hidden>@proxy.example:8080"},
            "revision": "main",
        },
        "eos_token": "</s>",
    }


def test_command_line():
    given = ["--elicitation_server_url", PROXY, "--hub-token", "s", "--api_key=s"]
    shown = ["--elicitation_server_url", "http://<hidden>@proxy.example:8080", "--hub-token", "<hidden>"]
    assert public_arguments(given) == [*shown, "--api_key=<hidden>"]


def test_log_messages_of_libraries():
    record = logging.LogRecord("urllib3", logging.WARNING, "x.py", 1, "Retrying %s", (PROXY,), None)
    assert SecretsFilter().filter(record)
    assert record.getMessage() == "Retrying http://<hidden>@proxy.example:8080"


def test_errors_of_values():
    with pytest.raises(ValueError, match="hub_token=<hidden> is not valid"):
        check_value("hub_token", [TOKEN], str | None)
    with pytest.raises(ValueError, match="not valid") as error:
        check_value("learning_rate", {"token": "plain-secret", "at": PROXY}, float)
    assert "plain-secret" not in str(error.value)
    assert "pass-word" not in str(error.value)


def test_records_of_stages(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.stage("one", {"server_url": PROXY, "n": (1, 2)}, [], lambda folder, key: {})
    text = (tmp_path / "run" / "one" / "stage.json").read_text()
    assert "http://<hidden>@proxy.example:8080" in text
    assert "pass-word" not in text
    assert directory.stage("one", {"server_url": PROXY, "n": [1, 2]}, [], pytest.fail).name == "one"


@pytest.fixture
def args(tmp_path):
    return LWFConfig(
        output_dir=str(tmp_path / "run"),
        hub_token=TOKEN,
        model_init_kwargs={"token": "plain-secret", "proxies": {"https": PROXY}},
        max_steps=1,
        save_steps=1,
        report_to=[],
        gradient_checkpointing=False,
    )


def test_settings_keep_them_in_memory_alone(args):
    for copied in (copy.copy(args), copy.deepcopy(args)):
        assert copied.hub_token == TOKEN
        assert copied.model_init_kwargs["token"] == "plain-secret"
    text = json.dumps(args.to_dict()) + args.to_json_string() + str(pickle.dumps(args))
    assert not [secret for secret in (TOKEN, "plain-secret", "pass-word") if secret in text]
    assert pickle.loads(pickle.dumps(args)).learning_rate == args.learning_rate


def test_nothing_that_a_trainer_writes_holds_them(args, tmp_path, make_model, tokenizer, learning):
    args.model_init_kwargs = None
    trainer = PlainTrainer(make_model(), args, train_dataset=learning, processing_class=tokenizer)
    # TRL refuses it beside a model, where another library may still put one.
    args.model_init_kwargs = {"token": "plain-secret", "proxies": {"https": PROXY}}
    trainer.train()
    trainer.save_model(str(tmp_path / "run" / "final"))
    written = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert sum(file.name == "training_args.bin" for file in written) == 2
    for file in written:
        found = [secret for secret in (TOKEN, "plain-secret", "pass-word") if secret.encode() in file.read_bytes()]
        assert not found, file


def test_settings_beside_weights_are_never_loaded(args, tmp_path, make_model, tokenizer, learning):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    args.model_init_kwargs = None
    PlainTrainer(make_model(), args, train_dataset=learning, processing_class=tokenizer).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    torch.save(Bomb(), checkpoint / "training_args.bin")
    # With its seal the checkpoint would be passed over as damaged.
    (checkpoint / "checkpoint.json").unlink()
    args.max_steps = 2
    again = PlainTrainer(make_model(), args, train_dataset=learning, processing_class=tokenizer)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert again.state.global_step == 2
    assert not (tmp_path / "exploded").exists()
