"""A given answer, put through tokens and back, counts as right; where it cannot, the row is refused before any work."""

import logging
from dataclasses import replace

import pytest
from datasets import Dataset
from transformers import GenerationConfig

from chat_tokenizers import (
    byte_level,
    channels_like,
    last_marked,
    llama3_like,
    metaspace,
    prefilled_like,
    qwen3_like,
)
from graceful_forgetting.evaluation.rows import EvaluationRows, check_references, scored
from graceful_forgetting.tasks import TASKS

CAPITALS = {"France": "Paris", "Italy": "Rome", "Peru": "Lima"}
TEXTS = {
    "byte-level": byte_level,
    "appends EOS": lambda: byte_level(appends_eos=True),
    "Llama 2": metaspace,
    "Llama 2 that appends EOS": lambda: metaspace(appends_eos=True),
    "Gemma": lambda: metaspace(prefix=False),
}
CHATS = [qwen3_like, llama3_like, channels_like, prefilled_like]


def texts(end: str = "") -> list[dict]:
    return [{"prompt": f"The capital of {land} is", "completion": f" {city}{end}"} for land, city in CAPITALS.items()]


def chats(asked: tuple[str, ...] = ()) -> list[dict]:
    earlier = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(asked)]
    return [
        {
            "prompt": [*earlier, {"role": "user", "content": f"capital of {land}?"}],
            "completion": [{"role": "assistant", "content": city}],
        }
        for land, city in CAPITALS.items()
    ]


def place(index: int) -> str:
    return f"mine.jsonl:{index + 1}"


def given_back(rows: list[dict], tokenizer, settings: GenerationConfig | None = None) -> EvaluationRows:
    """The rows, after all of them were seen to be right when they are generated token by token."""
    test = EvaluationRows(Dataset.from_list(rows), tokenizer)
    settings = settings or GenerationConfig()
    check_references(test, None, settings, place)
    reader = test.reader(test.stops(settings))
    answers = reader.texts([row.ids[row.start :] for row in test.given])
    assert all(scored(None, answers, test.references(None, reader)).correct)
    return test


@pytest.mark.parametrize("kind", TEXTS)
def test_given_texts_are_right(kind):
    test = given_back(texts(), TEXTS[kind]())
    assert [options[0]["bytes"] for options in test.options] == [6, 5, 5]


@pytest.mark.parametrize("asked", [(), ("capital of Spain?", "Madrid")], ids=["one turn", "three turns"])
@pytest.mark.parametrize("make", CHATS)
def test_given_turns_are_right(make, asked):
    test = given_back(chats(asked), make())
    assert [options[0]["bytes"] for options in test.options] == [5, 4, 4]


@pytest.mark.parametrize("eos", ["<|end|>", "<|endoftext|>"])
def test_an_end_written_into_the_answer_is_none_of_its_text(eos):
    test = given_back(texts("<|end|>"), byte_level(eos=eos, special=["<|end|>"]))
    assert [options[0]["bytes"] for options in test.options] == [6, 5, 5]
    # Without the end, which is two tokens where the EOS token is another.
    assert [options[0]["end_tokens"] for options in test.options] == [1 if eos == "<|end|>" else 2] * 3


def test_an_end_that_only_the_generation_settings_name_is_none_of_the_text_either():
    tokenizer = byte_level(special=["<|end|>"])
    settings = GenerationConfig(eos_token_id=tokenizer.convert_tokens_to_ids("<|end|>"))
    test = given_back([*texts("<|end|>"), *texts()], tokenizer, settings)
    read = test.reader(test.stops(settings)).texts([row.ids[row.start :] for row in test.given])
    assert all("<|end|>" not in text for text in read)


def test_answers_that_are_special_tokens_are_told_apart():
    tokenizer = byte_level(special=["<|pos|>", "<|neg|>"])
    rows = [{"prompt": "It was good:", "completion": "<|pos|>"}, {"prompt": "It was bad:", "completion": "<|neg|>"}]
    test = given_back(rows, tokenizer)
    reader = test.reader(test.stops(GenerationConfig()))
    swapped = reader.texts([row.ids[row.start :] for row in reversed(test.given)])
    assert scored(None, swapped, test.references(None, reader)).correct == [False, False]


def test_the_end_of_the_turn_stops_generation_whatever_the_eos_token():
    tokenizer = llama3_like()
    test = EvaluationRows(Dataset.from_list(chats()), tokenizer)
    assert tokenizer.convert_tokens_to_ids("<|eot_id|>") in test.stops(GenerationConfig())


REFUSED = {
    "empty": (byte_level, [*texts()[:1], {"prompt": "The capital of Peru is", "completion": " "}], "answer is empty"),
    "an end inside": (
        byte_level,
        [*texts()[:1], {"prompt": "The capital of Peru is", "completion": " Lima<|endoftext|>or"}],
        r"the answer 'Lima<\|endoftext\|>or' could never count as right: .*it is ' Lima'",
    ),
    "unknown": (
        lambda: metaspace(special=["<|end|>"]),
        [*texts()[:1], {"prompt": "The capital of Peru is", "completion": " 中"}],
        "could never count as right",
    ),
    "left out by the template": (
        qwen3_like,
        [{**chats()[1], "completion": [{"role": "assistant", "content": "<think>far</think>Rome"}]}],
        r"'<think>far</think>Rome' could never count as right: .*the chat template.*<think>\\nfar\\n</think>\\n\\nRome",
    ),
    "several turns": (
        llama3_like,
        [*chats()[:1], {**chats()[1], "completion": chats()[1]["completion"] * 2}],
        "completion has 2 turns",
    ),
    "a space": (
        byte_level,
        [*texts()[:1], {"prompt": "The capital of Peru is ", "completion": "Lima"}],
        r"prompt ends in ' '",
    ),
    "another prompt": (last_marked, [*chats()[:0], *chats()[:2]], "renders the prompt otherwise"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_could_never_be_right_is_refused(case):
    make, rows, message = REFUSED[case]
    line = 1 if case in ("another prompt", "left out by the template") else 2
    with pytest.raises(ValueError, match=rf"^mine\.jsonl:{line}: .*{message}"):
        check_references(EvaluationRows(Dataset.from_list(rows), make()), None, GenerationConfig(), place)


def test_given_thoughts_are_not_compared_where_others_have_none():
    thinks = {**chats()[1], "completion": [{"role": "assistant", "content": "<think>far</think>Rome"}]}
    test = given_back([chats()[0], thinks], qwen3_like())
    assert test.references(None, test.reader(test.stops(GenerationConfig()))) == ["Paris", "Rome"]


def test_a_task_reads_its_own_answers():
    """By the task's own reading: the number at the end of a sum is right, and a row without a number is named."""
    task = replace(TASKS["gsm8k"])
    rows = [{"prompt": "Question: 2 + 2\nAnswer:", "completion": " 2 + 2 = 4\n#### 4", "answer": "4"}]
    test = EvaluationRows(Dataset.from_list(rows), byte_level())
    check_references(test, task, GenerationConfig(), place)
    wrong = EvaluationRows(Dataset.from_list([{**rows[0], "completion": " none"}]), byte_level())
    with pytest.raises(ValueError, match=r"mine\.jsonl:1: the answer '4' could never count as right"):
        check_references(wrong, task, GenerationConfig(), place)


def test_a_template_that_ends_no_turn_is_said(caplog):
    tokenizer = byte_level("{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}")
    test = EvaluationRows(Dataset.from_list(chats()), tokenizer)
    with caplog.at_level(logging.WARNING):
        check_references(test, None, GenerationConfig(), place)
    assert "mine.jsonl:1: no special token ends the answer" in caplog.text


def test_prompts_are_refused_where_answers_are_generated_and_not_where_they_are_compared():
    rows = [{"prompt": "Answer: ", "completion": "four", "choices": ["four", "4"]}]
    test = EvaluationRows(Dataset.from_list(rows), byte_level())
    with pytest.raises(ValueError, match="row 0: prompt ends in ' '"):
        _ = test.prompt_ids
    starts = [next(at for at, label in enumerate(option["labels"]) if label != -100) for option in test.options[0]]
    assert starts[0] == starts[1]
