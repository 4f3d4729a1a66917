"""Answers begin where they are generated from, or the row is refused; other people's turns are never answers."""

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from chat_tokenizers import byte_level, channels_like, last_marked, llama3_like, metaspace, prefilled_like, qwen3_like
from graceful_forgetting.data import IGNORE_INDEX, encode_prompts, labelled, tokenize_dataset
from graceful_forgetting.data.encoding import common_start, encode_rows
from graceful_forgetting.runtime.internals import token_ids


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text} for text in texts]


def text_row(prompt: str, completion: str) -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


TOKENIZERS = {
    "byte-level": byte_level,
    "appends EOS": lambda: byte_level(appends_eos=True),
    "Llama 2": metaspace,
    "Llama 2 that appends EOS": lambda: metaspace(appends_eos=True),
    "Gemma": lambda: metaspace(prefix=False),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompt_ids_are_how_the_trained_row_begins(kind):
    tokenizer = TOKENIZERS[kind]()
    rows = [text_row("The capital of France is", " Paris"), text_row("Question:\n", "yes")]
    for row, prompt, encoded in zip(
        rows, encode_prompts(rows, tokenizer), encode_rows(rows, "prompt", tokenizer), strict=True
    ):
        assert encoded.misfit is None
        assert encoded.ids[: encoded.start] == prompt
        assert tokenizer.eos_token_id not in prompt
        assert (
            tokenizer.decode(encoded.ids[encoded.start :], skip_special_tokens=True).strip()
            == row["completion"].strip()
        )


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_texts_at_once_have_the_tokens_of_a_call_for_each(kind):
    tokenizer = TOKENIZERS[kind]()
    texts = ["The capital of France is Paris.", "", "é<|endoftext|> a</s>  b\n"]
    for settings in ({}, {"add_special_tokens": False}):
        each = [tokenizer(text=text, **settings)["input_ids"] for text in texts]
        # Leaves the backend to cut and to pad.
        tokenizer(text=texts, padding="max_length", truncation=True, max_length=3)
        assert token_ids(tokenizer, texts, **settings) == each


def test_a_tokenizer_with_an_encoding_of_its_own_is_asked_itself():
    class Reversed(PreTrainedTokenizerFast):
        def _encode_plus(self, text, *args, **settings):
            return super()._encode_plus([one[::-1] for one in text], *args, **settings)

    tokenizer = Reversed(tokenizer_object=byte_level().backend_tokenizer)
    assert token_ids(tokenizer, ["ab", "cd"]) == token_ids(byte_level(), ["ba", "dc"])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_rows_that_are_encoded_become_those_that_are_tokenised(kind):
    tokenizer, rows = TOKENIZERS[kind](), [text_row("The capital of France is", " Paris"), text_row("a\n", "b")]
    tokenised = tokenize_dataset(Dataset.from_list(rows), tokenizer).select_columns(["input_ids", "labels"])
    found = labelled(encode_rows(rows, "prompt", tokenizer), str)
    assert (found.to_list(), found.features) == (tokenised.to_list(), tokenised.features)
    with pytest.raises(ValueError, match="row 1 cannot be learned: prompt ends in"):
        labelled(
            encode_rows([rows[0], text_row("The capital of France is ", "Paris")], "prompt", tokenizer),
            lambda index: f"row {index}",
        )


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_prompt_that_ends_in_a_space_is_refused_with_the_remedy(kind):
    rows = [text_row("The capital of Italy is", " Rome"), text_row("The capital of France is ", "Paris")]
    with pytest.raises(
        ValueError, match=r"learning: row 1 cannot be learned: prompt ends in ' '.*start the completion"
    ):
        tokenize_dataset(Dataset.from_list(rows), TOKENIZERS[kind](), argument="learning")


def test_tokens_that_merge_across_the_boundary_are_refused_with_the_remedy():
    rows = Dataset.from_list([text_row("The capital of France is Par", "is")])
    with pytest.raises(ValueError, match=r"become one token \(' Paris'\).*a space or a line end"):
        tokenize_dataset(rows, byte_level())


def test_a_row_can_be_named_by_its_place():
    rows = Dataset.from_list([text_row("The capital of France is ", "Paris")])
    with pytest.raises(ValueError, match=r"^mine\.jsonl:1 cannot be learned"):
        tokenize_dataset(rows, byte_level(), place=lambda index: f"mine.jsonl:{index + 1}")


def test_a_last_turn_rendered_otherwise_before_an_answer_is_refused():
    """Counted from where the two part, 'user' and the question would be answer tokens."""
    rows = Dataset.from_list([{"prompt": turns("capital of France?"), "completion": said("Paris")}])
    with pytest.raises(ValueError, match=r"renders the prompt otherwise once an answer follows \('last user"):
        tokenize_dataset(rows, last_marked())


@pytest.mark.parametrize("make", [qwen3_like, llama3_like])
def test_of_several_turns_the_last_answer_alone_counts(make):
    """Also where the template takes the thoughts out of earlier turns."""
    tokenizer = make()
    prompt = turns("capital of Peru?", "<think>\nfar\n</think>\n\nLima", "capital of Norway?")
    row = tokenize_dataset(Dataset.from_list([{"prompt": prompt, "completion": said("Oslo")}]), tokenizer)[0]
    counted = tokenizer.decode([label for label in row["labels"] if label != IGNORE_INDEX])
    assert counted in ("<think>\n\n</think>\n\nOslo<|im_end|>\n", "Oslo<|eot_id|>")


def llama2_like() -> PreTrainedTokenizerFast:
    """No token of its own stands where the answer begins."""
    tokenizer = metaspace()
    tokenizer.chat_template = (
        "{%- for m in messages -%}{{ bos_token + '[INST] ' + m.content + ' [/INST]' if m.role == 'user' else "
        "' ' + m.content + eos_token }}{%- endfor -%}"
    )
    return tokenizer


@pytest.mark.parametrize(
    "make", [qwen3_like, llama3_like, channels_like, prefilled_like, last_marked, llama2_like], ids=lambda f: f.__name__
)
def test_answers_begin_where_prompts_that_are_encoded_alone_end(make):
    """Also where texts name the tokens of the template, begin with spaces, or hold what the tokenizer does not know."""
    tokenizer = make()
    texts = [
        "Paris",
        " Paris",
        "a<|im_end|> <|im_start|>",
        "</s>b<s>",
        "<|eot_id|>",
        "é \u4e2d",
        "<unk><|",
        "in <|end|>is",
    ]
    prompts = [turns(text) for text in texts] + [
        turns(text, "<think>\nfar\n</think>\n\nLima", "and?") for text in texts
    ]
    rows = [{"prompt": prompt, "completion": said(text)} for prompt in prompts for text in texts]
    for row, encoded in zip(rows, encode_rows(rows, "prompt", tokenizer), strict=True):
        alone = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        assert encoded.ids == tokenizer.apply_chat_template([*row["prompt"], *row["completion"]])["input_ids"]
        assert encoded.start == common_start(alone, encoded.ids)
        assert (encoded.start == len(alone)) or encoded.misfit or make is prefilled_like


def test_turns_of_others_in_a_completion_are_refused():
    row = {"prompt": turns("capital of Peru?"), "completion": [*said("Lima"), *turns("and of Norway?"), *said("Oslo")]}
    with pytest.raises(ValueError, match=r"completion, turn 2 has role='user'.*assistant_only_loss=True"):
        tokenize_dataset(Dataset.from_list([row]), llama3_like())


def test_turns_of_others_in_a_completion_do_not_count_with_assistant_only():
    tokenizer = llama3_like()
    marked = tokenizer.chat_template.replace(
        "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n' + m.content | trim + '<|eot_id|>' -}}",
        "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n' -}}"
        "{%- if m.role == 'assistant' -%}{%- generation -%}{{- m.content + '<|eot_id|>' -}}{%- endgeneration -%}"
        "{%- else -%}{{- m.content + '<|eot_id|>' -}}{%- endif -%}",
    )
    tokenizer.chat_template = marked
    row = {"prompt": turns("capital of Peru?"), "completion": [*said("Lima"), *turns("and of Norway?"), *said("Oslo")]}
    labels = tokenize_dataset(Dataset.from_list([row]), tokenizer, assistant_only=True)[0]["labels"]
    assert tokenizer.decode([label for label in labels if label != IGNORE_INDEX]) == "Lima<|eot_id|>Oslo<|eot_id|>"


def test_a_generation_prompt_that_goes_on_ends_where_the_trained_row_agrees():
    tokenizer = prefilled_like()
    rows = [{"prompt": turns("capital of France?"), "completion": said("Paris")}]
    (encoded,) = encode_rows(rows, "prompt", tokenizer)
    assert encoded.misfit is None
    assert tokenizer.decode(encoded.ids[: encoded.start]) == "<|user|>capital of France?<|assistant|>"
    assert tokenizer.decode(encode_prompts(rows, tokenizer)[0]).endswith("<|assistant|><think>\n")


def test_turns_that_the_template_refuses_are_named():
    tokenizer = llama3_like()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    rows = Dataset.from_list([{"prompt": turns("capital of France?"), "completion": said("Paris")}])
    with pytest.raises(
        ValueError, match=r"row 0 has turns \(user, assistant\) that the chat template refuses: roles must"
    ):
        tokenize_dataset(rows, tokenizer)


def test_a_template_that_trains_other_earlier_turns_than_answers_follow_is_refused():
    """As TRL's for Qwen3, which keeps the thinking block of earlier turns."""
    tokenizer = qwen3_like()
    training = tokenizer.chat_template.replace("and loop.index0 > last.query", "")
    one = {"prompt": turns("capital of Norway?"), "completion": said("Oslo")}
    three = {"prompt": turns("capital of Peru?", "Lima", "capital of Norway?"), "completion": said("Oslo")}
    found = encode_rows([one, three], "prompt", tokenizer, chat_template=training)
    assert found[0].misfit is None
    assert "set assistant_only_loss=False" in found[1].misfit
