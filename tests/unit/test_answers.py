"""Answers end where trained ones do, and are read as text without what is not theirs."""

import pytest

from chat_tokenizers import byte_level, channels_like, llama3_like, metaspace, prefilled_like, qwen3_like
from graceful_forgetting.data import AnswerReader, answer_ends
from graceful_forgetting.data.answers import turn_end
from graceful_forgetting.data.encoding import encode_rows

ASKED = [{"role": "user", "content": "capital of France?"}]
CHATS = {
    "qwen3": (qwen3_like, "<|im_end|>"),
    "llama3": (llama3_like, "<|eot_id|>"),
    "channels": (channels_like, "<|return|>"),
    "prefilled": (prefilled_like, "<|endoftext|>"),
}


@pytest.mark.parametrize("name", CHATS)
def test_the_token_that_ends_a_turn_is_read_off_the_template(name):
    make, end = CHATS[name]
    tokenizer = make()
    assert tokenizer.convert_ids_to_tokens(turn_end({"prompt": ASKED}, tokenizer)) == end


def test_a_turn_that_ends_with_plain_text_or_nothing_has_no_end():
    for end in ("", "\n"):
        tokenizer = byte_level("{% for m in messages %}{{ m.content }}" + end + "{% endfor %}")
        assert turn_end({"prompt": ASKED}, tokenizer) is None


def test_a_special_token_that_ends_all_given_texts_ends_answers():
    tokenizer = byte_level(special=["<|end|>", "<|pos|>", "<|neg|>"])
    eos, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|end|>"])

    def ends(*completions):
        rows = [{"prompt": "It is", "completion": completion} for completion in completions]
        return answer_ends(tokenizer, rows, encode_rows(rows, "prompt", tokenizer))

    assert ends(" Paris<|end|>", " Rome<|end|>") == {eos, end}
    assert ends(" Paris<|end|>", " Rome") == {eos}
    assert ends(" so <|pos|>", " so <|pos|>") == {eos}
    # Answers that are special tokens, or end with one that tells them apart.
    assert ends("<|pos|>", "<|pos|>") == ends(" so <|pos|>", " so <|neg|>") == {eos}


def test_what_a_template_writes_before_answers_is_no_part_of_them():
    tokenizer = qwen3_like()
    (row,) = encode_rows(
        [{"prompt": ASKED, "completion": [{"role": "assistant", "content": "Paris"}]}], "prompt", tokenizer
    )
    reader = AnswerReader(tokenizer, [tokenizer.eos_token_id], [("Paris", row.ids[row.start :])])
    written = ["<think>\n\n</think>\n\nParis<|im_end|>", "<think>\nFrance, so\n</think>\n\nRome<|im_end|>", "Oslo"]
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert [text.strip() for text in reader.texts(ids)] == ["Paris", "Rome", "Oslo"]


def test_the_name_of_a_channel_is_no_part_of_the_answer():
    tokenizer = channels_like()
    (row,) = encode_rows(
        [{"prompt": ASKED, "completion": [{"role": "assistant", "content": "Paris"}]}], "prompt", tokenizer
    )
    end = tokenizer.convert_tokens_to_ids("<|return|>")
    reader = AnswerReader(tokenizer, [end], [("Paris", row.ids[row.start :])])
    thinks = "<|channel|>analysis<|message|>a, b.<|end|><|start|>assistant<|channel|>final<|message|>Rome<|return|>"
    ids = tokenizer(["<|channel|>final<|message|>Paris<|return|>", thinks], add_special_tokens=False)["input_ids"]
    assert reader.texts(ids) == ["Paris", "Rome"]


@pytest.mark.parametrize("make", [byte_level, metaspace], ids=["byte-level", "metaspace"])
def test_special_tokens_stay_where_given_answers_have_them(make):
    tokenizer = make(special=["<|pos|>", "<|neg|>", "<|other|>"])
    ids = tokenizer(["<|pos|>", "<|neg|>", "<|other|> yes"], add_special_tokens=False)["input_ids"]
    ends = [tokenizer.eos_token_id]
    given = [("<|pos|>", []), ("<|neg|>", [])]
    assert [text.strip() for text in AnswerReader(tokenizer, ends, given).texts(ids)] == ["<|pos|>", "<|neg|>", "yes"]
    reader = AnswerReader(tokenizer, ends)
    assert [text.strip() for text in reader.texts(ids)] == ["", "", "yes"]
    assert [text.strip() for text in reader.texts_or_tokens(ids)] == ["<|pos|>", "<|neg|>", "yes"]
    assert reader.texts_or_tokens([[tokenizer.eos_token_id]]) == [""]


def test_an_end_that_is_written_out_is_no_part_of_the_text():
    tokenizer = byte_level(special=["<|end|>"])
    reader = AnswerReader(tokenizer, tokenizer.convert_tokens_to_ids(["<|end|>", "<|endoftext|>"]))
    texts = [" Paris<|end|>", " Paris<|end|>\n<|endoftext|>", " Paris", " <|end|> is the end"]
    assert [reader.without_end(text) for text in texts] == [" Paris", " Paris", " Paris", " <|end|> is the end"]


def test_white_space_before_punctuation_stays():
    tokenizer = byte_level()
    tokenizer.clean_up_tokenization_spaces = True
    ids = tokenizer([" a , b . don 't"])["input_ids"]
    assert AnswerReader(tokenizer, [tokenizer.eos_token_id]).texts(ids) == [" a , b . don 't"]
