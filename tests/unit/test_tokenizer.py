"""The settled tokenizer: what TRL makes of the settings, on a copy; and its refusals."""

from datetime import datetime
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils
from trl import SFTTrainer

from graceful_forgetting.config import LWFConfig
from graceful_forgetting.data import fingerprint_tokenizer, settled_tokenizer

# TRL deprecates the setting; while it is there, it counts.
pytestmark = pytest.mark.filterwarnings("ignore:.pad_token. is deprecated:FutureWarning")

TEMPLATE = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] }}{% endfor %}"


def settings(tmp_path, **changes) -> LWFConfig:
    return LWFConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none", **changes)


@pytest.fixture
def tokenizer(tokenizer):
    """With two more tokens, for models with 66."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>", "<|pad|>"]})
    return tokenizer


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(TEMPLATE)
    return str(path)


@pytest.fixture
def source(tokenizer, tmp_path):
    """A folder with the tokenizer, another EOS token and a template."""
    tokenizer.save_pretrained(tmp_path / "source")
    other = AutoTokenizer.from_pretrained(tmp_path / "source")
    other.eos_token, other.chat_template = "<|pad|>", TEMPLATE
    other.save_pretrained(tmp_path / "source")
    return str(tmp_path / "source")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"eos_token": "<|end|>"},
        {"pad_token": "<|pad|>"},
        {"eos_token": "<|end|>", "pad_token": "<|pad|>", "chat_template_path": "template"},
    ],
)
def test_it_is_what_trl_makes_of_the_same_settings(changes, tokenizer, make_model, learning, template, tmp_path):
    if "chat_template_path" in changes:
        changes = {**changes, "chat_template_path": template}
    args, before = settings(tmp_path, **changes), fingerprint_tokenizer(tokenizer)
    settled = settled_tokenizer(tokenizer, args)
    assert fingerprint_tokenizer(tokenizer) == before
    known = fingerprint_tokenizer(settled)
    SFTTrainer(make_model(vocab_size=66), args, train_dataset=learning, processing_class=settled)
    assert fingerprint_tokenizer(settled) == known
    SFTTrainer(make_model(vocab_size=66), args, train_dataset=learning, processing_class=tokenizer)
    assert fingerprint_tokenizer(tokenizer) == known


def test_without_a_pad_token_the_eos_token_pads(tokenizer, tmp_path):
    tokenizer.pad_token = None
    assert settled_tokenizer(tokenizer, settings(tmp_path)).pad_token == "<eos>"
    assert tokenizer.pad_token is None
    tokenizer.eos_token = None
    assert settled_tokenizer(tokenizer, settings(tmp_path, pad_token="w3")).pad_token == "w3"
    with pytest.raises(ValueError, match="no pad token and no EOS token"):
        settled_tokenizer(tokenizer, settings(tmp_path))


def test_the_fingerprint_sees_what_text_becomes_and_nothing_else(tokenizer):
    known = fingerprint_tokenizer(tokenizer)
    tokenizer(["w1", "w2 w3"], padding=True, truncation=True, max_length=1)
    assert fingerprint_tokenizer(tokenizer) == known
    tokenizer.chat_template = TEMPLATE
    with_template = fingerprint_tokenizer(tokenizer)
    tokenizer.add_tokens(["w60"])
    assert len({known, with_template, fingerprint_tokenizer(tokenizer)}) == 3


DATED = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(("template", "differs"), [(DATED, True), (TEMPLATE, False), ("{# strftime_now #}a", False)])
def test_the_fingerprint_sees_the_date_where_prompts_have_it(template, differs, tokenizer, monkeypatch):
    tokenizer.chat_template = template
    found = set()
    for day in (1, 1, 2):
        monkeypatch.setattr(
            chat_template_utils, "datetime", SimpleNamespace(now=lambda day=day: datetime(2026, 1, day))
        )
        found.add(fingerprint_tokenizer(tokenizer))
    assert len(found) == (2 if differs else 1)


def test_a_template_with_the_date_is_warned_of(tokenizer, tmp_path, caplog):
    tokenizer.chat_template = DATED
    settled_tokenizer(tokenizer, LWFConfig(str(tmp_path), use_cpu=True))
    assert "give a template with a fixed date (chat_template_path)" in caplog.text


def test_of_a_folder_it_has_the_template_and_the_eos_token(tokenizer, source, tmp_path):
    settled = settled_tokenizer(tokenizer, settings(tmp_path, eos_token="<|end|>", chat_template_path=source))
    assert (settled.chat_template, settled.eos_token) == (TEMPLATE, "<|pad|>")
    assert (tokenizer.chat_template, tokenizer.eos_token) == (None, "<eos>")


@pytest.mark.parametrize(
    ("setting", "token"), [("eos_token", "<|im_end|>"), ("eos_token", "w59"), ("pad_token", "<|im_end|>")]
)
def test_a_token_that_no_text_can_have_is_refused_with_those_that_it_can(setting, token, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=f"{setting}='.*' is no token that .*<eos>.*<.end.>"):
        settled_tokenizer(tokenizer, settings(tmp_path, **{setting: token}))


def test_templates_that_cannot_be_had_are_refused(tokenizer, source, tmp_path):
    def refused(path) -> str:
        with pytest.raises((ValueError, FileNotFoundError), match="chat_template_path=") as error:
            settled_tokenizer(tokenizer, settings(tmp_path, chat_template_path=str(path)))
        return str(error.value)

    assert "there is no file" in refused(tmp_path / "none.jinja")
    assert "neither a file that ends in .jinja" in refused(tmp_path / "none")
    (tmp_path / "bad.jinja").write_text("{% for m in messages %}\n{{ m.role }")
    assert "line 2" in refused(tmp_path / "bad.jinja")
    tokenizer.save_pretrained(tmp_path / "plain")
    assert "has no chat template" in refused(tmp_path / "plain")
    other = AutoTokenizer.from_pretrained(source)
    other.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    other.save_pretrained(source)
    assert "tokens that the model lacks (<|im_end|>)" in refused(source)
