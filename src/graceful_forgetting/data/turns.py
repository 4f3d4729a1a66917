"""Plain text as conversations: how a chat model is asked, and what it is to answer; and conversations checked."""

import json
import re
from functools import partial
from typing import Any

from datasets import Dataset, List, Value, concatenate_datasets
from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from graceful_forgetting.data.encoding import broken_template, row_parts


def speaks_in_turns(prompt_style: str, system_prompt: str | None, processing_class: PreTrainedTokenizerBase) -> bool:
    """Whether plain text goes through the chat template of the tokenizer.

    Args:
        prompt_style: 'auto' (where it has a template), 'chat' or 'plain'.
        system_prompt: what stands before every conversation, which the template must put there.
        processing_class: settled.

    Raises:
        ValueError: 'chat' without a template, or a system prompt that reaches no model.
    """
    template = processing_class.chat_template
    if prompt_style == "chat" and template is None:
        raise ValueError(
            "prompt_style='chat', and the model's tokenizer has no chat template: name one with chat_template_path, or "
            "set prompt_style='plain'"
        )
    if system_prompt is None:
        return prompt_style != "plain" and template is not None
    if prompt_style == "plain" or template is None:
        why = "prompt_style='plain'" if prompt_style == "plain" else "a tokenizer that has no chat template"
        raise ValueError(
            f"system_prompt={system_prompt!r} with {why}: plain text has no system turn; remove it, or write it into "
            "the prompts"
        )
    turns = [{"role": "system", "content": system_prompt}, {"role": "user", "content": "a"}]
    try:
        shown = processing_class.apply_chat_template(turns, tokenize=False)
    except TemplateSyntaxError as error:
        raise ValueError(broken_template(error)) from error
    except TemplateError as error:
        problem = f"the chat template refuses it ({error})"
        raise ValueError(f"system_prompt={system_prompt!r}: {problem}; remove it") from error
    if system_prompt.strip() not in shown:
        raise ValueError(f"system_prompt={system_prompt!r}: the chat template leaves it out; remove it")
    return True


def in_turns(rows: Dataset, system_prompt: str | None = None) -> Dataset:
    """The rows with `prompt`, `completion` and `choices` as lists of turns; those that are so already stay.

    White space around plain text, which joins prompt and completion there, is left out.

    Args:
        rows: with `prompt`, and perhaps the others.
        system_prompt: the system turn of a conversation that has none of its own.
    """
    columns = [name for name in ("prompt", "completion", "choices") if name in rows.column_names]
    if system_prompt is None and not any(_is_text(rows.features[name]) for name in columns):
        return rows
    parts = row_parts(rows.select_columns(columns), "putting rows into turns")
    turned = Dataset.from_list([_turns(row, system_prompt) for _, part in parts for row in part])
    others = rows.remove_columns(columns)
    return concatenate_datasets([turned, others], axis=1) if others.column_names else turned


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) or (isinstance(feature, List) and isinstance(feature.feature, Value))


def as_turns(text: str | list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    """`text` as one turn of `role`; a conversation as it is."""
    return [{"role": role, "content": text.strip()}] if isinstance(text, str) else text


def check_said(rows: Dataset, argument: str) -> None:
    """Refuse answers that say nothing: to unlearn one is to learn to say something, whatever it is.

    Args:
        rows: with `completion`, `messages` or neither.
        argument: name of the data set in error messages.

    Raises:
        ValueError: names the row and its column.
    """
    for column in ("completion", "messages"):
        for index, value in enumerate(rows[column][:] if column in rows.column_names else ()):
            last = value if isinstance(value, str) else (value or [{}])[-1]
            calls = not isinstance(last, str) and last.get("tool_calls")
            text = last if isinstance(last, str) else last.get("content")
            if not calls and (text is None or (isinstance(text, str) and not text.strip())):
                raise ValueError(
                    f"{argument}: row {index} has {column}={value!r}, an answer that is empty or white space: write "
                    "text, or remove the row"
                )


def check_carried(rows: Dataset, processing_class: PreTrainedTokenizerBase, argument: str) -> None:
    """Refuse conversations of which the chat template leaves out tools, calls of them, the thoughts of the answer, or
    an argument of its own.

    The model would learn to say nothing where the row has a call. Thoughts of earlier turns are for the template to
    leave out, as Qwen3's does.

    Args:
        rows: conversations or other rows.
        processing_class: settled.
        argument: name of the data set in error messages.

    Raises:
        ValueError: names the row and what is left out.
    """
    said = {"messages", "prompt", "completion"}.intersection(rows.column_names)
    if not said:
        return
    columns = said | {"tools", "chat_template_kwargs"}.intersection(rows.column_names)
    read = row_parts(rows.select_columns(sorted(columns)), f"checking the turns of {argument}")
    for index, row in enumerate(row for _, part in read for row in part):
        fields = [row.get(name) or [] for name in ("prompt", "completion", "messages")]
        if any(isinstance(field, str) for field in fields):
            continue
        turns = [turn for field in fields for turn in field]
        tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools")
        options = row.get("chat_template_kwargs") or {}
        shown = partial(_shown, processing_class, options)
        left_out = [
            f"chat_template_kwargs[{name!r}]"
            for name, value in options.items()
            if value is not None and not re.search(rf"\b{re.escape(name)}\b", str(processing_class.chat_template))
        ]
        if tools and shown(turns, tools) == shown(turns, None):
            left_out.append("tools")
        for name, since in (("tool_calls", 0), ("reasoning_content", -1)):
            less = [{key: turn[key] for key in turn if key != name} for turn in turns[since:]]
            if any(turn.get(name) for turn in turns[since:]) and (
                shown(turns, tools) == shown(turns[: len(turns) - len(less)] + less, tools)
            ):
                left_out.append(name)
        if left_out:
            raise ValueError(
                f"{argument}: row {index} has {' and '.join(left_out)}, and the chat template leaves them out: take a "
                "template that shows them (chat_template_path), or write them into the content of the turns"
            )


def _shown(
    processing_class: PreTrainedTokenizerBase, options: dict[str, Any], turns: list[dict[str, Any]], tools: Any
) -> str:
    return str(processing_class.apply_chat_template(turns, tools=tools, tokenize=False, **options))


def _turns(row: dict[str, Any], system_prompt: str | None) -> dict[str, Any]:
    turns = as_turns(row["prompt"], "user")
    if system_prompt is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system_prompt}, *turns]
    found: dict[str, Any] = {"prompt": turns}
    if "completion" in row:
        found["completion"] = as_turns(row["completion"], "assistant")
    if "choices" in row:
        found["choices"] = [as_turns(text, "assistant") for text in row["choices"]]
    return found
