"""Plain text as turns of a conversation."""

import pytest
from datasets import Dataset, Features, Value

from graceful_forgetting.data import turns
from graceful_forgetting.data.turns import check_carried, check_said, in_turns, speaks_in_turns

TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + TEMPLATE
DEAF = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_text_becomes_a_user_turn_and_an_assistant_turn_without_the_white_space_that_joined_them():
    features = {"prompt": "string", "completion": "string", "row": "string", "old_answer": "string"}
    rows = Dataset.from_list(
        [{"prompt": "Q: 2 + 2?\nA: ", "completion": " 4", "row": "1", "old_answer": None}],
        features=Features({name: Value(kind) for name, kind in features.items()}),
    )
    turned = in_turns(rows)
    assert turned[0] == {
        "prompt": [user("Q: 2 + 2?\nA:")],
        "completion": [assistant("4")],
        "row": "1",
        "old_answer": None,
    }
    assert turned.features["old_answer"] == Value("string")


def test_options_are_turns_and_the_right_one_is_found_among_them():
    rows = Dataset.from_list([{"prompt": "2 + 2 =", "completion": " 4", "choices": [" 3", " 4"]}])
    (row,) = in_turns(rows)
    assert row["choices"] == [[assistant("3")], [assistant("4")]]
    assert row["choices"].index(row["completion"]) == 1


def test_conversations_without_a_system_prompt_are_not_written_again(monkeypatch):
    monkeypatch.setattr(turns, "row_parts", None)
    rows = Dataset.from_list([{"prompt": [user("a")], "completion": [assistant("b")]}])
    assert in_turns(rows) is rows
    prompts = Dataset.from_list([{"prompt": [user("a")]}])
    assert in_turns(prompts) is prompts


def test_a_system_prompt_comes_before_conversations_that_have_none():
    system = {"role": "system", "content": "Be brief."}
    own = {"role": "system", "content": "Be long."}
    rows = Dataset.from_list([{"prompt": [user("a")]}, {"prompt": [own, user("b")]}])
    assert in_turns(rows, "Be brief.")["prompt"][:] == [[system, user("a")], [own, user("b")]]
    assert in_turns(Dataset.from_list([{"prompt": "a"}]), "Be brief.")["prompt"][:] == [[system, user("a")]]


@pytest.mark.parametrize(
    ("style", "template", "expected"),
    [("auto", None, False), ("auto", TEMPLATE, True), ("chat", TEMPLATE, True), ("plain", TEMPLATE, False)],
)
def test_the_template_is_used_where_there_is_one_unless_plain_text_is_asked_for(style, template, expected, tokenizer):
    tokenizer.chat_template = template
    assert speaks_in_turns(style, None, tokenizer) is expected


@pytest.mark.parametrize(
    ("style", "system", "template", "message"),
    [
        ("chat", None, None, "prompt_style='chat', and the model's tokenizer has no chat template"),
        ("auto", "Be brief.", None, "with a tokenizer that has no chat template"),
        ("plain", "Be brief.", TEMPLATE, "with prompt_style='plain'"),
        ("auto", "Be brief.", NO_SYSTEM, "refuses it .no system turns."),
        ("auto", "Be brief.", DEAF, "leaves it out"),
    ],
)
def test_what_would_not_reach_the_model_is_refused(style, system, template, message, tokenizer):
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        speaks_in_turns(style, system, tokenizer)


CALLING = TEMPLATE + "{% for m in messages %}{{ m.tool_calls }}{% endfor %}{{ tools }}"
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
TOOLS = '[{"type": "function", "function": {"name": "f"}}]'


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [user("a"), CALL]},
        {"prompt": [user("a")], "completion": [CALL]},
        {"messages": [user("a"), assistant("b")], "tools": TOOLS},
    ],
    ids=["messages", "completion", "tools"],
)
def test_calls_of_tools_reach_the_model_or_are_refused(row, tokenizer):
    said = {"completion": [assistant("b")]} if "completion" in row else {"messages": [user("a"), assistant("b")]}
    rows = Dataset.from_list([{**row, "tools": None, **said}, {"tools": None, **row}])
    tokenizer.chat_template = CALLING
    check_carried(rows, tokenizer, "forget_dataset")
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(ValueError, match=r"forget_dataset: row 1 has tool.*, and the chat template leaves them out"):
        check_carried(rows, tokenizer, "forget_dataset")


THINKING = TEMPLATE + "{{ messages[-1].reasoning_content }}"
THOUGHT = {"role": "assistant", "content": "b", "reasoning_content": "so"}


def test_thoughts_of_the_answer_reach_the_model_or_are_refused(tokenizer):
    rows = Dataset.from_list([{"messages": [user("a"), assistant("b")]}, {"messages": [user("a"), THOUGHT]}])
    earlier = Dataset.from_list([{"messages": [user("a"), THOUGHT, user("c"), assistant("d")]}])
    tokenizer.chat_template = THINKING
    check_carried(rows, tokenizer, "train_dataset")
    tokenizer.chat_template = TEMPLATE
    check_carried(earlier, tokenizer, "train_dataset")
    with pytest.raises(ValueError, match=r"train_dataset: row 1 has reasoning_content, and the chat template leaves"):
        check_carried(rows, tokenizer, "train_dataset")


def test_arguments_that_a_template_does_not_read_are_refused(tokenizer):
    rows = Dataset.from_list([{"prompt": [user("a")], "chat_template_kwargs": {"enable_thinking": False}}])
    tokenizer.chat_template = TEMPLATE + "{{ enable_thinking }}"
    check_carried(rows, tokenizer, "forget_dataset")
    for template in (TEMPLATE, TEMPLATE + "{{ enable_thinking_now }}"):
        tokenizer.chat_template = template
        with pytest.raises(
            ValueError, match=r"row 0 has chat_template_kwargs\['enable_thinking'\], and the chat templ"
        ):
            check_carried(rows, tokenizer, "forget_dataset")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": ""},
        {"prompt": "a", "completion": " \n"},
        {"prompt": [user("a")], "completion": [assistant(" ")]},
        {"messages": [user("a"), assistant("")]},
    ],
    ids=str,
)
def test_an_answer_that_says_nothing_is_refused(row):
    with pytest.raises(ValueError, match=r"forget_dataset: row 0 has .* an answer that is empty or white space"):
        check_said(Dataset.from_list([row]), "forget_dataset")


def test_answers_that_say_something_and_prompts_alone_are_taken(tokenizer):
    tokenizer.chat_template = CALLING
    for row in ({"prompt": "a"}, {"prompt": "a", "completion": " b"}, {"messages": [user("a"), CALL]}):
        check_said(Dataset.from_list([row]), "forget_dataset")
        check_carried(Dataset.from_list([row]), tokenizer, "forget_dataset")


def test_a_system_prompt_that_the_template_shows_is_taken(tokenizer):
    tokenizer.chat_template = TEMPLATE
    assert speaks_in_turns("auto", "Be brief.", tokenizer)
