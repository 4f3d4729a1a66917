"""The user's own data as a task.

A JSONL row is one of

    {"prompt": "Capital of France?", "completion": " Paris"}
    {"prompt": "Capital of France?"}                         prompt only: enough for a forgetting task
    {"prompt": [{"role": "user", "content": ...}], "completion": [{"role": "assistant", "content": ...}]}
    {"messages": [..., {"role": "assistant", "content": ...}]}           the last turn is the completion
    {"prompt": ..., "completion": ..., "forgetting_confidence": 1.5}      to forget, scored already
    {"prompt": "2 + 2 =", "completion": " 4", "choices": [" 3", " 4"]}    multiple choice: the completion is one of them

All rows of a split have the same form. The answer is the completion's text without surrounding white space,
and the metric is exact match with it.
"""

from pathlib import Path
from typing import Any

from graceful_forgetting.tasks.jsonl import split_files
from graceful_forgetting.tasks.task import SPLITS, Row, Task

# Of an answer that may be forgotten: given with the row, it is not scored again.
_SCORE = "forgetting_confidence"


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            for turn in value
        )
    )


def _turns(conversation: list[Row]) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": turn["content"]} for turn in conversation]


def _from_messages(messages: Any) -> dict[str, Any]:
    if not _is_conversation(messages):
        raise ValueError(f"messages={messages!r} is not a list of {{'role', 'content'}} turns")
    turns = _turns(messages)
    if turns[-1]["role"] != "assistant":
        return {"prompt": turns}
    if len(turns) == 1:
        raise ValueError("messages has only an assistant turn; a prompt must come before it")
    return {"prompt": turns[:-1], "completion": turns[-1:], "answer": turns[-1]["content"].strip()}


def _format(row: Row) -> dict[str, Any]:
    formatted = _formatted(row)
    if _SCORE not in row:
        return formatted
    score = row[_SCORE]
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise ValueError(f"{_SCORE}={score!r} is not a number")
    if "completion" not in formatted:
        raise ValueError(f"{_SCORE}={score!r} is the score of an answer, and the row has none: add completion")
    return {**formatted, _SCORE: None if score is None else float(score)}


def _formatted(row: Row) -> dict[str, Any]:
    if "messages" in row:
        return _from_messages(row["messages"])
    if "prompt" not in row:
        raise ValueError(
            "needs columns prompt (and completion), or messages; missing: prompt; "
            f"present: {', '.join(sorted(row)) or 'none'}"
        )
    prompt, completion = row["prompt"], row.get("completion")
    if row.get("choices") is not None and not isinstance(prompt, str):
        raise ValueError("choices needs a prompt and a completion that are text, not conversations")
    if _is_conversation(prompt):
        if completion is None:
            return {"prompt": _turns(prompt)}
        if not _is_conversation(completion):
            raise ValueError(f"completion={completion!r} is not a list of turns, but prompt is one; use one form")
        answer = completion[-1]["content"].strip()
        return {"prompt": _turns(prompt), "completion": _turns(completion), "answer": answer}
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f"prompt={prompt!r} is neither text nor a list of {{'role', 'content'}} turns")
    if completion is None:
        return {"prompt": prompt}
    if not isinstance(completion, str):
        raise ValueError(f"completion={completion!r} is not text, but prompt is; use one form")
    whole = {"prompt": prompt, "completion": completion, "answer": completion.strip()}
    choices = row.get("choices")
    if choices is None:
        return whole
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) and text for text in choices):
        raise ValueError(f"choices={choices!r} is not a list of two texts or more")
    return {**whole, "choices": choices}


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
