"""Elicitation refuses bad input before it generates anything, and says what to do."""

import logging

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chat_tokenizers import byte_level, llama3_like
from graceful_forgetting.config import ElicitationConfig, LWFConfig
from graceful_forgetting.elicitation import elicit_self_knowledge

CONTEXT = 12


def make_tokenizer(words: int = 20, **special: str | None) -> PreTrainedTokenizerFast:
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"} | special
    vocabulary = {
        word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(words))])
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


class Unasked(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        raise AssertionError("the model was asked although the input is bad")


@pytest.fixture
def model() -> Unasked:
    config = LlamaConfig(
        vocab_size=23,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        eos_token_id=1,
    )
    return Unasked(config)


def words(number: int) -> str:
    return " ".join(["w0"] * number)


GOOD = {"prompt": ["w0 w1"]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": ["w0"], "answer": ["w1"]}, "needs a column `prompt`; its columns: question, answer"),
        ({"prompt": []}, "prompts has no rows"),
        (GOOD | {"completion": ["w2"]}, r'given answers need no elicitation.*remove_columns\("completion"\)'),
        (
            GOOD | {"input_ids": [[1]], "finish_reason": ["stop"]},
            "already has columns .*: finish_reason, input_ids",
        ),
        ({"prompt": ["w0", ""]}, "row 1 has prompt ''"),
        ({"prompt": ["w0", None]}, "row 1 has prompt None"),
        ({"prompt": ["w0", " "]}, "row 1 has no tokens"),
        ({"prompt": [3]}, "row 0 has prompt 3; it must be a string or a list of messages"),
        ({"prompt": [[{"role": "user", "content": "w0"}]]}, "no chat template"),
        (
            {"prompt": ["w0", words(CONTEXT)]},
            f"row 1 has {CONTEXT} tokens.*context of {CONTEXT}.*at most {CONTEXT - 1}",
        ),
        (
            {"prompt": ["w0", words(9)]},
            "max_new_tokens=4 does not fit: .*row 1.*9 tokens.*largest that fits is 3",
        ),
    ],
)
def test_bad_prompts_are_refused_before_any_work(columns, message, model):
    with pytest.raises(ValueError, match=message):
        elicit_self_knowledge(model, make_tokenizer(), Dataset.from_dict(columns), ElicitationConfig(max_new_tokens=4))


def test_prompts_that_are_no_data_set_are_refused(model):
    with pytest.raises(TypeError, match=r"must be a datasets\.Dataset, not list"):
        elicit_self_knowledge(model, make_tokenizer(), ["w0"])


@pytest.mark.parametrize(
    ("processing_class", "error", "message"),
    [
        (None, ValueError, "processing_class is None: pass the model's tokenizer"),
        ("gpt2", TypeError, "must be a tokenizer, not str"),
        (
            make_tokenizer(words=40),
            ValueError,
            "row 0 has token id 38.*vocabulary ends at 22.*does not belong",
        ),
        (make_tokenizer(pad_token=None, eos_token=None), ValueError, "no pad token and no EOS token"),
    ],
)
def test_wrong_tokenizer_is_refused_before_any_work(processing_class, error, message, model):
    with pytest.raises(error, match=message):
        elicit_self_knowledge(model, processing_class, Dataset.from_dict({"prompt": ["w35"]}))


def test_tokenizer_without_pad_token_pads_with_eos():
    config = LlamaConfig(
        vocab_size=23,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        initializer_range=0.5,
        max_position_embeddings=CONTEXT,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    # No answer ends by itself or holds a padding token, whichever token that is.
    model.lm_head.weight.data[:2] = 0
    model.lm_head.weight.data[2:].abs_()
    prompts = Dataset.from_dict({"prompt": ["w0 w1 w2", "w3"]})
    settings = ElicitationConfig(max_new_tokens=4)
    without = elicit_self_knowledge(model, make_tokenizer(pad_token=None), prompts, settings)
    assert without.to_list() == elicit_self_knowledge(model, make_tokenizer(), prompts, settings).to_list()


SERVER = {"server_url": "http://localhost:8000/v1", "server_model": "tiny"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 .*at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 .*at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0 .*at least 0"),
        ({"temperature": float("nan")}, "temperature=nan .*finite number"),
        ({"num_samples_per_prompt": 0}, "num_samples_per_prompt=0 .*at least 1"),
        ({"num_samples_per_prompt": 2}, "num_samples_per_prompt=2 with .*temperature=0.0.*set .*temperature=1.0"),
        ({"server_model": "tiny"}, "server_model='tiny' with .*server_url=None: no server is asked"),
        ({"server_api_key_env": "KEY"}, "server_api_key_env='KEY' with .*server_url=None: no server is asked"),
        ({"server_url": "http://localhost/v1"}, "with .*server_model=None: set .*server_model"),
        (
            SERVER | {"server_url": "localhost:8000"},
            "server_url='localhost:8000' is not valid.*http://localhost:8000/v1",
        ),
        (SERVER | {"server_url": "http://h/v1?key=x"}, "is not valid: it must be the base address"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ElicitationConfig(**settings)
    prefixed = {f"elicitation_{name}": value for name, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        LWFConfig(output_dir=str(tmp_path), **prefixed)


def test_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match=r"server_url holds a user name or password.*server_api_key_env") as caught:
        ElicitationConfig(**SERVER | {"server_url": "http://me:hidden@localhost:8000/v1"})
    assert "hidden" not in str(caught.value)


def test_why_all_answers_are_empty_is_said_as_it_is():
    tokenizer = byte_level()
    model = always(tokenizer, "\n")
    with pytest.raises(ValueError, match="all 2 completions are empty: 0 end at once, and 2 hold nothing"):
        elicit_self_knowledge(model, tokenizer, ASKED, ElicitationConfig(max_new_tokens=3))


def test_answers_that_are_special_tokens_are_answers():
    tokenizer = byte_level(special=["<|pos|>"])
    found = elicit_self_knowledge(always(tokenizer, "<|pos|>"), tokenizer, ASKED, ElicitationConfig(max_new_tokens=2))
    assert found["completion"][:] == ["<|pos|><|pos|>"] * 2


def test_the_token_that_ends_a_turn_ends_answers():
    tokenizer = llama3_like()
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": "capital of Peru?"}]}])
    model = always(tokenizer, " Lima", then="<|eot_id|>")
    (row,) = elicit_self_knowledge(model, tokenizer, prompts, ElicitationConfig(max_new_tokens=8))
    assert (row["completion"], row["finish_reason"]) == ([{"role": "assistant", "content": " Lima"}], "stop")


def test_no_answer_is_generated_after_an_end_that_the_tokenizer_appends():
    tokenizer = byte_level(appends_eos=True)
    found = elicit_self_knowledge(always(tokenizer, " Lima"), tokenizer, ASKED, ElicitationConfig(max_new_tokens=1))
    assert all(tokenizer.eos_token_id not in row["input_ids"] for row in found)


def test_prompts_that_end_in_a_space_are_counted_aloud(caplog):
    tokenizer = byte_level()
    prompts = Dataset.from_list([{"prompt": "The capital of Peru is"}, {"prompt": "The capital of Italy is "}])
    with caplog.at_level(logging.WARNING):
        elicit_self_knowledge(always(tokenizer, " Lima"), tokenizer, prompts, ElicitationConfig(max_new_tokens=1))
    assert "1 of 2 prompts end in white space that makes other tokens" in caplog.text


ASKED = Dataset.from_list([{"prompt": "The capital of Peru is"}, {"prompt": "The capital of Italy is"}])


def always(tokenizer: PreTrainedTokenizerFast, text: str, then: str | None = None) -> LlamaForCausalLM:
    """A model that writes one token again and again, or another one after it."""
    (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    size = len(tokenizer)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=size, hidden_size=2, intermediate_size=2, num_hidden_layers=0, num_attention_heads=1)
    )
    with torch.no_grad():
        # Every token is (1, 0) or, the one after which another comes, (0, 1).
        model.model.embed_tokens.weight.copy_(torch.tensor([1.0, 0.0]).expand(size, 2))
        model.lm_head.weight.zero_()
        model.lm_head.weight[token, 0] = 9.0
        if then is not None:
            model.model.embed_tokens.weight[token] = torch.tensor([0.0, 1.0])
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(then), 1] = 9.0
    return model
