"""Prompts and answers as token ids, and where an answer begins.

An answer is generated from its prompt's ids, so these must be how the trained row begins. Where they are not, the row
carries the reason (`EncodedRow.misfit`), and whoever learns or generates from it refuses it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from datasets import Dataset
from jinja2 import TemplateError, TemplateSyntaxError
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from trl import maybe_convert_to_chatml

from graceful_forgetting.runtime.internals import encodes_by_backend, token_ids
from graceful_forgetting.runtime.progress import DELAY, progress_bar

_Encoded = TypeVar("_Encoded")
# Rows that are encoded between two movements of a bar.
_TOGETHER = 1000


@dataclass(frozen=True)
class EncodedRow:
    """A row as token ids.

    Attributes:
        ids: of the whole row.
        start: where the answer begins; 0 without a prompt.
        said: of each token, whether the assistant says it; none where that was not asked.
        misfit: why an answer would not be generated from where it is trained, with the remedy; none: it would.
    """

    ids: list[int]
    start: int
    said: list[bool] | None = None
    misfit: str | None = None


# What rendering raises where a row is not what the template expects, or the template is wrong.
_TEMPLATE_ERRORS = (TemplateError, TypeError, LookupError, ArithmeticError, AttributeError)


class RefusedRowError(ValueError):
    """The chat template refuses one row; `position` among those that were given."""

    def __init__(self, message: str, position: int):
        super().__init__(message)
        self.position = position


def row_parts(rows: Dataset, description: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The rows in parts, each with the number of its first row, under a bar where they take long."""
    rows = rows.with_format(None)
    with progress_bar(description, "rows", len(rows), delay=DELAY) as bar:
        for start in range(0, len(rows), _TOGETHER):
            columns = rows[start : start + _TOGETHER]
            part = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            yield start, part
            bar.update(len(part))


def encoded_in_parts(
    rows: Dataset, description: str, encode: Callable[[list[dict[str, Any]]], list[_Encoded]]
) -> list[_Encoded]:
    """What `encode` makes of the rows, called with a part of them at a time; raises as it does."""
    return [row for part in encoded_parts(rows, description, encode) for row in part]


def encoded_parts(
    rows: Dataset, description: str, encode: Callable[[list[dict[str, Any]]], list[_Encoded]]
) -> Iterator[list[_Encoded]]:
    """As `encoded_in_parts`, one part after the other."""
    for start, part in row_parts(rows, description):
        try:
            yield encode(part)
        except RefusedRowError as error:
            raise RefusedRowError(str(error), start + error.position) from error


def common_start(first: Sequence[int], second: Sequence[int]) -> int:
    """How many ids two sequences have in common from their beginning."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)


def encode_prompts(
    rows: Sequence[Mapping[str, Any]], processing_class: PreTrainedTokenizerBase, chat_template: str | None = None
) -> list[list[int]]:
    """Token ids of each row's `prompt` awaiting its completion.

    Text gets no end-of-text token, also where the tokenizer appends one. Messages get the chat template with a
    generation prompt, and the row's `tools` and `chat_template_kwargs` where it has them.

    Raises:
        ValueError: messages where there is no chat template.
        RefusedRowError: messages that it refuses.
    """
    if all(isinstance(row["prompt"], str) for row in rows):
        # All at once: a call for each takes ten times as long.
        return _without_appended(token_ids(processing_class, [row["prompt"] for row in rows]), processing_class)
    keywords = _keywords(rows, chat_template)
    return _chat_ids([row["prompt"] for row in rows], processing_class, keywords, add_generation_prompt=True)[0]


def encode_rows(
    rows: Sequence[Mapping[str, Any]],
    kind: str,
    processing_class: PreTrainedTokenizerBase,
    *,
    assistant_only: bool = False,
    chat_template: str | None = None,
) -> list[EncodedRow]:
    """Rows of one kind ('prompt', 'messages', 'conversations' or 'text'), with the token ids of TRL's `SFTTrainer`.

    Args:
        rows: texts, or lists of messages; all of one form.
        kind: 'prompt' stands for `prompt` + `completion`.
        processing_class: with an EOS token where the rows are text, which ends each of them.
        assistant_only: find out what the assistant says.
        chat_template: in place of the tokenizer's own.

    Raises:
        ValueError: messages where there is no chat template.
        RefusedRowError: messages that it refuses.
    """
    ending = rows[0]["completion" if kind == "prompt" else kind]
    said: Sequence[list[bool] | None] = [None] * len(rows)
    prompts = None
    if isinstance(ending, str):
        wholes = [row["prompt"] + row["completion"] if kind == "prompt" else row[kind] for row in rows]
        eos = processing_class.eos_token
        if eos is None:
            raise ValueError("the rows are text, and the tokenizer has no EOS token to end them with; set eos_token")
        ids = token_ids(processing_class, [whole if whole.endswith(eos) else whole + eos for whole in wholes])
    else:
        keywords, conversations = _keywords(rows, chat_template), [_messages(row, kind) for row in rows]
        if assistant_only or kind != "prompt" or not encodes_by_backend(processing_class):
            ids, said = _chat_ids(conversations, processing_class, keywords, said=assistant_only)
        else:
            wholes = _rendered(conversations, processing_class, keywords)
            asked = _rendered([row["prompt"] for row in rows], processing_class, keywords, add_generation_prompt=True)
            ids = token_ids(processing_class, wholes, add_special_tokens=False)
            prompts = _beginnings(asked, wholes, ids, processing_class)
    if kind != "prompt":
        return [EncodedRow(own, 0, mask) for own, mask in zip(ids, said, strict=True)]
    encoded = []
    prompts = prompts or encode_prompts(rows, processing_class, chat_template)
    for row, own, mask, prompt in zip(rows, ids, said, prompts, strict=True):
        # Where they part is where TRL starts to count: tokens can merge across the boundary.
        start = len(prompt) if own[: len(prompt)] == prompt else common_start(prompt, own)
        misfit = None if start == len(prompt) else _misfit(row, own, start, prompt, processing_class, chat_template)
        misfit = misfit or _speakers(row, assistant_only) or _earlier_turns(row, own, processing_class, chat_template)
        encoded.append(EncodedRow(own, start, mask, misfit))
    return encoded


def _beginnings(
    prompts: list[str], wholes: list[str], ids: list[list[int]], processing_class: PreTrainedTokenizerBase
) -> list[list[int]]:
    """Ids of the prompts, with which most of the `wholes`, whose `ids` are known, begin.

    A tokenizer cuts a text at its added tokens and encodes what is between them piece by piece. So what stands before
    such a token, the mark, has the same ids in both, and the mark with what follows (the same text in most prompts) can
    be encoded alone.
    """
    marks = {token.content: id for id, token in processing_class.added_tokens_decoder.items() if _cuts(token)}
    marks.pop(str(processing_class.unk_token), None)
    mark = max(marks, key=prompts[0].rfind, default=None)
    if mark is None:
        return token_ids(processing_class, prompts, add_special_tokens=False)
    heads, tails = [], []
    for prompt, whole, own in zip(prompts, wholes, ids, strict=True):
        head, found, tail = prompt.rpartition(mark)
        # Each place where the text has the mark is one where the tokenizer has found it.
        if found and whole.startswith(prompt) and whole.count(mark) == own.count(marks[mark]):
            place = -1
            for _ in range(head.count(mark) + 1):
                place = own.index(marks[mark], place + 1)
            heads.append(own[:place])
            tails.append(mark + tail)
        else:
            heads.append([])
            tails.append(prompt)
    distinct = list(dict.fromkeys(tails))
    known = dict(zip(distinct, token_ids(processing_class, distinct, add_special_tokens=False), strict=True))
    return [head + known[tail] for head, tail in zip(heads, tails, strict=True)]


def _cuts(token: AddedToken) -> bool:
    """Whether the tokenizer finds the token wherever a text has it, and no two that overlap."""
    return not token.normalized and not token.single_word and token.content.count(token.content[0]) == 1


def template_kwargs(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row hands to the chat template beside its messages."""
    tools = row.get("tools")
    return {
        "tools": json.loads(tools) if isinstance(tools, str) else tools,
        **(row.get("chat_template_kwargs") or {}),
    }


def _keywords(rows: Sequence[Mapping[str, Any]], chat_template: str | None) -> list[dict[str, Any]]:
    return [{"chat_template": chat_template, **template_kwargs(row)} for row in rows]


def _messages(row: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    if kind == "prompt":
        return [*row["prompt"], *row["completion"]]
    messages: list[dict[str, Any]] = row[kind]
    return maybe_convert_to_chatml({"messages": messages})["messages"] if kind == "conversations" else messages


def _without_appended(ids: list[list[int]], processing_class: PreTrainedTokenizerBase) -> list[list[int]]:
    """`ids` of texts without the tokens that the tokenizer itself adds after every text."""
    bare = list(processing_class(text="a", add_special_tokens=False)["input_ids"])
    dressed = list(processing_class(text="a")["input_ids"])
    before = next((at for at in range(len(dressed)) if dressed[at : at + len(bare)] == bare), len(dressed))
    appended = max(0, len(dressed) - before - len(bare))
    return [own[: len(own) - appended] for own in ids] if appended else ids


def _chat_ids(
    conversations: list[list[dict[str, Any]]],
    processing_class: PreTrainedTokenizerBase,
    keywords: list[dict[str, Any]],
    said: bool = False,
    **more: Any,
) -> tuple[list[list[int]], Sequence[list[bool] | None]]:
    """Ids of each conversation, and which of its tokens the assistant says where that is asked."""
    if not said and isinstance(processing_class, PreTrainedTokenizerFast):
        texts = _rendered(conversations, processing_class, keywords, **more)
        return token_ids(processing_class, texts, add_special_tokens=False), [None] * len(texts)
    more["return_assistant_tokens_mask"] = said
    parts = list(_templated(conversations, processing_class, keywords, more))
    ids = [own for part in parts for own in part["input_ids"]]
    if not said:
        return ids, [None] * len(ids)
    return ids, [list(map(bool, bits)) for part in parts for bits in part["assistant_masks"]]


def _rendered(
    conversations: list[list[dict[str, Any]]],
    processing_class: PreTrainedTokenizerBase,
    keywords: list[dict[str, Any]],
    **more: Any,
) -> list[str]:
    """Each conversation as the template's text, which `token_ids` encodes faster than the template does."""
    settings = {"tokenize": False, **more}
    return [text for part in _templated(conversations, processing_class, keywords, settings) for text in part]


def _templated(
    conversations: list[list[dict[str, Any]]],
    processing_class: PreTrainedTokenizerBase,
    keywords: list[dict[str, Any]],
    settings: dict[str, Any],
) -> Iterator[Any]:
    """What the template makes of each run of conversations with the same keywords."""
    if processing_class.chat_template is None and any(own.get("chat_template") is None for own in keywords):
        raise ValueError(
            "the data are conversational and the tokenizer has no chat template; set "
            "tokenizer.chat_template, or give prompts and completions as strings"
        )
    for start, end in _runs(keywords):
        try:
            yield processing_class.apply_chat_template(conversations[start:end], **keywords[start], **settings)
        except TemplateSyntaxError as error:
            raise ValueError(broken_template(error)) from error
        except _TEMPLATE_ERRORS as error:
            if end - start == 1:
                raise RefusedRowError(_refusal(conversations[start], error), start) from error
            for at in range(start, end):
                try:
                    list(_templated([conversations[at]], processing_class, [keywords[at]], settings))
                except RefusedRowError as refused:
                    raise RefusedRowError(str(refused), at) from error
            raise


def _runs(keywords: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Start and end of each run of equal keywords."""
    start = 0
    for end in range(1, len(keywords) + 1):
        if end == len(keywords) or keywords[end] != keywords[start]:
            yield start, end
            start = end


def broken_template(error: TemplateSyntaxError) -> str:
    """What to tell a user whose tokenizer has a chat template that cannot be read."""
    return (
        f"the chat template of the tokenizer is broken (line {error.lineno}: {error.message}): correct it, or name "
        "another with chat_template_path"
    )


def _refusal(conversation: list[dict[str, Any]], error: Exception) -> str:
    roles = ", ".join(str(turn.get("role")) for turn in conversation)
    # What a template raises itself; transformers hands it on as this very class.
    if type(error) is TemplateError:
        return (
            f"has turns ({roles}) that the chat template refuses: {error}; bring them into the order that it takes, or "
            "name another template with chat_template_path"
        )
    return (
        f"has turns ({roles}) that the chat template cannot be filled in with: {error}; correct the template (that of "
        "the tokenizer, or of chat_template_path), or write what it reads into the row"
    )


def _speakers(row: Mapping[str, Any], assistant_only: bool) -> str | None:
    """Why the completion would make answer tokens of what others say."""
    if assistant_only or isinstance(row["completion"], str):
        return None
    for number, turn in enumerate(row["completion"], start=1):
        if turn["role"] != "assistant":
            return (
                f"completion, turn {number} has role={turn['role']!r}, and all of a completion is learned as an "
                "answer: make a row of each answer, with the turns before it in the prompt, or set "
                "assistant_only_loss=True"
            )
    return None


def _earlier_turns(
    row: Mapping[str, Any], ids: list[int], processing_class: PreTrainedTokenizerBase, chat_template: str | None
) -> str | None:
    """Why a template that only trains makes another prompt than the tokenizer's own, by which answers are generated."""
    if chat_template is None or isinstance(row["prompt"], str):
        return None
    if all(turn["role"] != "assistant" for turn in row["prompt"]):
        return None
    own = _chat_ids([row["prompt"]], processing_class, [template_kwargs(row)])[0][0]
    if ids[: len(own)] == own:
        return None
    return (
        "with assistant_only_loss TRL's template for training renders earlier turns of the assistant otherwise than "
        "the tokenizer's own, by which answers are generated: set assistant_only_loss=False (of a prompt and its "
        "completion the completion alone counts in any case)"
    )


def _misfit(
    row: Mapping[str, Any],
    ids: list[int],
    start: int,
    prompt_ids: list[int],
    processing_class: PreTrainedTokenizerBase,
    chat_template: str | None,
) -> str | None:
    """Why the trained row does not begin with its prompt's ids; none where only the generation prompt goes on."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        if prompt != prompt.rstrip():
            blank = prompt[len(prompt.rstrip()) :]
            return (
                f"prompt ends in {blank!r}, which makes other tokens when an answer follows, so that the model would "
                "be asked otherwise than it is trained: end the prompt before it, and start the completion (and each "
                "of choices) with it"
            )
        merged = processing_class.decode(ids[start : start + 1])
        apart = "a line end" if row["completion"][:1].isspace() else "a space or a line end"
        return (
            f"the end of prompt and the start of completion become one token ({merged!r}), so that the model would be "
            f"asked otherwise than it is trained: start the completion (and each of choices) with {apart}"
        )
    # Some templates open the assistant's turn in another way than they render it, say with '<think>\n': the answer
    # is then generated from where both agree, if that is after all turns of the prompt.
    keywords = [{"chat_template": chat_template, **template_kwargs(row)}]
    turns = _chat_ids([prompt], processing_class, keywords)[0][0]
    if start >= len(turns) and ids[: len(turns)] == turns:
        return None
    alone, followed = (processing_class.decode(part[start : start + 12]) for part in (prompt_ids, ids))
    return (
        f"the chat template renders the prompt otherwise once an answer follows ({alone!r} becomes {followed!r}), so "
        "that the model would be asked otherwise than it is trained: change the template, or give prompt and "
        "completion as text"
    )
