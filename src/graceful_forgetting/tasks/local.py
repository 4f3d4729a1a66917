"""The user's own data as a task.

A JSONL row is one of

    {"prompt": "Capital of France?", "completion": " Paris"}
    {"prompt": "Capital of France?"}                         prompt only: enough for a forgetting task
    {"prompt": "Good or bad? ...", "options": ["Good", "Bad"]}    the same, answered by the likeliest of these
    {"prompt": [{"role": "user", "content": ...}], "completion": [{"role": "assistant", "content": ...}]}
    {"messages": [..., {"role": "assistant", "content": ...}]}           the last turn is the completion
    {"prompt": ..., "completion": ..., "forgetting_confidence": 1.5}      to forget, scored already
    {"prompt": "2 + 2 =", "completion": " 4", "choices": [" 3", " 4"]}    multiple choice: the completion is one of them
    {"prompt": ..., "completion": ..., "old_answer": " 5"}     what older knowledge says: such answers are counted
    {"prompt": ..., "kind": "conflicting"}                     what forgetting it does: scores are measured by it

All rows of a split have the same form. The answer is the completion's text without surrounding white space,
and the metric is exact match with it. Turns carry role (system, user, assistant) and content; a row with more that the
model would have to read (tools, calls of them, reasoning, a system prompt beside the prompt) is refused.
"""

import sys
from pathlib import Path
from typing import Any

from graceful_forgetting.tasks.jsonl import split_files
from graceful_forgetting.tasks.task import KINDS, SPLITS, Row, Task, shown

# Of an answer that may be forgotten: given with the row, it is not scored again.
_SCORE = "forgetting_confidence"


_ROLES = ("system", "user", "assistant")
_OTHER_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "developer": "system"}
# Columns that other tools put into the prompt. Without them the model would be asked something else.
_NOT_CARRIED = {
    *("system", "tools", "functions", "tool_calls", "function_call", "reasoning_content", "thinking", "documents"),
    *("chat_template", "chat_template_kwargs", "image", "images", "audio", "audios", "video", "videos"),
}


def _turns(column: str, value: Any, otherwise: str) -> list[dict[str, str]]:
    """The turns of a conversation, `role` and `content` each; raises `ValueError` where `value` is none, or has
    something that they cannot carry.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"{column}={shown(value)} {otherwise}")
    for number, turn in enumerate(value, start=1):
        where = f"{column}, turn {number}"
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise ValueError(f"{column}={shown(value)} {otherwise}: turn {number} has no role")
        _check_role(where, turn["role"])
        # Tools that write a table fill the keys that a turn lacks with null.
        more = [key for key in turn if key not in ("role", "content") and turn[key] not in (None, [], {}, "")]
        if more:
            raise ValueError(
                f"{where} has {more[0]}={shown(turn[more[0]])}, and a turn carries role and content alone: write what "
                f"the model is to read or say into content, or remove {more[0]}"
            )
        if not isinstance(turn.get("content"), str):
            raise ValueError(
                f"{column}={shown(value)} {otherwise}: turn {number} has content={shown(turn.get('content'))}; "
                "write text"
            )
        if turn["role"] != "system" and not turn["content"].strip():
            raise ValueError(f"{where} ({turn['role']}) has content={shown(turn['content'])}: {_BLANK}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _check_role(where: str, role: str) -> None:
    if role not in _ROLES:
        hint = f"write {_OTHER_ROLES[role]!r}" if role in _OTHER_ROLES else "correct it or remove the turn"
        raise ValueError(f"{where} has role={shown(role)}, which is none of {', '.join(_ROLES)}: {hint}")


_BLANK = "it is empty or white space; write text, or remove the row"
_TURNS = "of {'role', 'content'} turns"


def _from_messages(row: Row) -> dict[str, Any]:
    for column in ("prompt", "completion", "choices"):
        if row.get(column) is not None:
            raise ValueError(f"has messages and {column}={shown(row[column])}: give messages alone, or without them")
    turns = _turns("messages", row["messages"], f"is not a list {_TURNS}")
    if turns[-1]["role"] != "assistant":
        _check_asked("messages", turns)
        return {"prompt": turns}
    if len(turns) == 1:
        raise ValueError("messages has only an assistant turn; a prompt must come before it")
    _check_asked("messages", turns[:-1])
    return {"prompt": turns[:-1], "completion": turns[-1:], "answer": turns[-1]["content"].strip()}


def _check_asked(column: str, turns: list[dict[str, str]]) -> None:
    if all(turn["role"] == "system" for turn in turns):
        raise ValueError(f"{column} has system turns only before the answer; add a user turn")


def _format(row: Row) -> dict[str, Any]:
    formatted = {**_formatted(row), **_known_truth(row)}
    if row.get("options") is not None:
        formatted["options"] = _options(row["options"], formatted)
    if _SCORE not in row:
        return formatted
    score = row[_SCORE]
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise ValueError(f"{_SCORE}={shown(score)} is not a number")
    if "completion" not in formatted:
        raise ValueError(f"{_SCORE}={score!r} is the score of an answer, and the row has none: add completion")
    if score is not None and not abs(score) <= sys.float_info.max:
        raise ValueError(f"{_SCORE}={shown(score)} is not a finite number; write null where there is no score")
    return {**formatted, _SCORE: None if score is None else float(score)}


def _options(value: Any, formatted: dict[str, Any]) -> list[str]:
    if "completion" in formatted:
        raise ValueError(
            f"options={shown(value)} are what the model chooses its own answer from, and the row has a completion: "
            "remove one of them (choices are the options of a question with a right answer)"
        )
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise ValueError(f"options={shown(value)} must be a list of texts, none of them empty")
    if len({text.strip() for text in value}) < max(2, len(value)):
        raise ValueError(
            f"options={shown(value)} must be at least two texts, all different in more than the space around them"
        )
    return value


def _known_truth(row: Row) -> dict[str, str]:
    """What the row says of older knowledge: `old_answer` and `kind`."""
    found = {name: row[name] for name in ("old_answer", "kind") if row.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name}={shown(value)}: write text, or remove it")
    if found.get("kind", KINDS[0]) not in KINDS:
        raise ValueError(f"kind={shown(found['kind'])} must be one of {', '.join(KINDS)}")
    return found


def _formatted(row: Row) -> dict[str, Any]:
    for column in row:
        if column in _NOT_CARRIED and row[column] not in (None, [], {}, ""):
            raise ValueError(
                f"{column}={shown(row[column])} would not reach the model: write it into the prompt (a system prompt "
                f"as a first turn), or remove the column {column}"
            )
    if row.get("messages") is not None:
        return _from_messages(row)
    if "prompt" not in row:
        raise ValueError(
            "needs columns prompt (and completion), or messages; missing: prompt; "
            f"present: {', '.join(sorted(row)) or 'none'}. Rename the columns, or say in a YAML task how they make a "
            "prompt and a completion"
        )
    prompt, completion = row["prompt"], row.get("completion")
    if row.get("choices") is not None and not isinstance(prompt, str):
        raise ValueError("choices needs a prompt and a completion that are text, not conversations")
    if not isinstance(prompt, str):
        turns = _turns("prompt", prompt, f"is neither text nor a list {_TURNS}")
        return _conversation(turns, completion)
    if not prompt.strip():
        raise ValueError(f"prompt={shown(prompt)}: {_BLANK}")
    if completion is None:
        return {"prompt": prompt}
    if not isinstance(completion, str):
        raise ValueError(f"completion={shown(completion)} is not text, but prompt is; use one form")
    if not completion.strip():
        raise ValueError(f"completion={shown(completion)}: {_BLANK}")
    whole = {"prompt": prompt, "completion": completion, "answer": completion.strip()}
    choices = row.get("choices")
    if choices is None:
        return whole
    _check_choices(choices)
    return {**whole, "choices": choices}


def _conversation(turns: list[dict[str, str]], completion: Any) -> dict[str, Any]:
    _check_asked("prompt", turns)
    if completion is None:
        return {"prompt": turns}
    said = _turns("completion", completion, f"is not a list of turns, but prompt is one; use one form: a list {_TURNS}")
    for number in {1, len(said)}:
        if said[number - 1]["role"] != "assistant":
            raise ValueError(
                f"completion, turn {number} has role={said[number - 1]['role']!r}: a completion is what the assistant "
                "says; put earlier turns into the prompt"
            )
    return {"prompt": turns, "completion": said, "answer": said[-1]["content"].strip()}


def _check_choices(choices: Any) -> None:
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) and text for text in choices):
        raise ValueError(f"choices={shown(choices)} is not a list of two texts or more")
    if not all(text.strip() for text in choices):
        raise ValueError(f"choices={shown(choices)} has a text of white space only; write it or leave it out")
    if len({text.strip() for text in choices}) < len(choices):
        raise ValueError(f"choices={shown(choices)} has a text twice, but for the space around it; keep one of them")


def _parse(text: str) -> str | None:
    return text.strip() or None


def local_task(path: str | Path) -> Task:
    """A task over the user's own JSONL file, or folder with train.jsonl and/or test.jsonl (row forms: see the
    module).

    It is named after the file or folder. Raises `FileNotFoundError` if there is no such data.
    """
    path = Path(path).expanduser()
    split_files(path)
    named_after_split = path.is_file() and path.stem in SPLITS
    return Task(
        name=path.absolute().parent.name if named_after_split else path.absolute().stem,
        description=f"local data: {path}",
        licence="of the user's data",
        columns=(),
        format_row=_format,
        parse_answer=_parse,
        metric="exact_match",
        path=path,
    )
