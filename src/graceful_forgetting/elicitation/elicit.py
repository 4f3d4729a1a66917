"""From prompts to rows of self-knowledge."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy
from datasets import Dataset, Features, List, Value
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import (
    IGNORE_INDEX,
    OTHER_OPTIONS,
    AnswerReader,
    answer_ends,
    require_pad_token,
    require_tokenizer,
)
from graceful_forgetting.elicitation.backends import Backend, open_backend
from graceful_forgetting.elicitation.options import OPTIONS_COLUMN, choosing_among_options, option_ids
from graceful_forgetting.elicitation.prompts import tokenize_prompts
from graceful_forgetting.elicitation.shards import SHARD_SIZE, complete_in_shards
from graceful_forgetting.generation import Completion, Request, check_context, make_requests, stop_token_ids
from graceful_forgetting.runtime.compact import RowWriter, TokenLists
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.runtime.store import key_of

logger = logging.getLogger(__name__)

# Share of the completions above which a user should hear why they are dropped.
_MANY = 0.1


@dataclass(frozen=True)
class ElicitationCounts:
    """What became of the prompts.

    Attributes:
        prompts: prompts asked.
        completions: `num_samples_per_prompt` for each prompt = kept + duplicates + empty.
        kept: rows returned.
        duplicates: dropped because an earlier row has the same prompt and completion.
        empty: dropped because the completion has no text.
        inexact: completions that came back as text and whose tokens may not be those that were generated.
        tokens: tokens generated, EOS included, for all completions.
        seconds: time that generating them took, that of shards found finished included, without loading anything.
        tokens_per_second: tokens / seconds.
    """

    prompts: int
    completions: int
    kept: int
    duplicates: int
    empty: int
    inexact: int
    tokens: int
    seconds: float
    tokens_per_second: float


def elicit_self_knowledge(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Dataset,
    config: ElicitationConfig | None = None,
    *,
    resume_dir: str | Path | None = None,
    announce: Callable[[str], None] = logger.info,
) -> Dataset:
    """Let the model answer the prompts; its answers are its self-knowledge.

    Args:
        model: the base model. Its mode, generation settings and the caller's random state are left as they
            were; its own generation settings (temperature, penalties, ...) are not used.
        processing_class: its tokenizer.
        prompts: rows with a column `prompt`, each a string or a list of messages (chat template with
            generation prompt; columns `tools` and `chat_template_kwargs` reach it). Where a row's column `options` has
            texts, its answer is the likeliest of them, and nothing is generated. Other columns are kept.
        config: settings; None takes the defaults.
        resume_dir: folder for finished shards of 1024 completions; a second call with the same arguments goes on
            from there. The caller removes it. Without it all answers are held in memory; with it 60 bytes of each are.
        announce: receives how much was found finished, and how fast the rest was.

    Returns:
        The rows of `prompts` in their order, each `config.num_samples_per_prompt` times, without those whose
        completion is empty or repeats an earlier row (their number is logged), with the added columns
        `completion` (text without special tokens; for a list of messages a list with one message of the
        assistant), `completion_tokens` (without EOS), `mean_log_probability` (natural logarithm, mean over the
        generated tokens with EOS, under the model's own distribution), `finish_reason` ("stop" or "length"), and
        `input_ids` and `labels` with exactly the generated tokens. Where prompts have options there is a column
        `other_options` too, the tokens of those that were not the answer.

    Sampling draws each completion from a random stream of its own, made from `config.seed`, the prompt and the number
    of the draw: neither batch size nor the order of the prompts matters. Rounding differs with the padding, so that a
    near tie may still fall differently. A server has streams of its own, and may not honour seeds (see its module).

    Several processes of one launch share the work, and all return the same.

    Raises:
        TypeError: `prompts` is not a `datasets.Dataset`, or `processing_class` is not a tokenizer.
        ConnectionError: the server cannot be reached.
        ValueError: before any generation: no prompts, no `prompt` column, given completions, an empty prompt,
            one that leaves no room in the model's context, a server that answers for another model; after it:
            nothing but empty completions, or log-probabilities that are not finite.
        FileExistsError: something that is not a shard is in its place in `resume_dir`.
        RuntimeError: the server failed at its work.
    """
    return elicit_with_counts(model, processing_class, prompts, config, resume_dir=resume_dir, announce=announce)[0]


def elicit_with_counts(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Dataset,
    config: ElicitationConfig | None = None,
    *,
    resume_dir: str | Path | None = None,
    announce: Callable[[str], None] = logger.info,
) -> tuple[Dataset, ElicitationCounts]:
    """`elicit_self_knowledge`, and how many completions were dropped and why, and the speed."""
    config = config or ElicitationConfig()
    tokenizer = require_tokenizer(processing_class, "prompts")
    pad_token_id = require_pad_token(tokenizer)
    prompt_ids = tokenize_prompts(prompts, tokenizer, resume_dir)
    ends = answer_ends(tokenizer, [prompts.with_format(None)[0]])
    eos_token_ids = stop_token_ids(model.generation_config, tokenizer, ends)
    check_context(prompt_ids, model, config.max_new_tokens)

    options = option_ids(prompts, prompt_ids, tokenizer, eos_token_ids, config, resume_dir)
    asks = options is not None
    requests = make_requests(prompt_ids, config, options)

    def backend() -> AbstractContextManager[Backend]:
        opened = open_backend(
            model, tokenizer, requests, config, pad_token_id=pad_token_id, eos_token_ids=eos_token_ids
        )
        return choosing_among_options(opened, model, tokenizer, config) if asks else opened

    completions, seconds = complete_in_shards(
        backend,
        requests,
        resume_dir,
        "" if resume_dir is None else _key(model, prompt_ids, eos_token_ids, config, options),
        announce,
    )
    own = prompts.with_format(None)
    own = own.remove_columns([name for name in (OPTIONS_COLUMN,) if name in own.column_names])
    kept = _Kept(own, AnswerReader(tokenizer, eos_token_ids), asks, resume_dir)
    # A part at a time: as Python objects rows take ten times as much memory.
    for first in range(0, len(completions), SHARD_SIZE):
        part = requests[first : first + SHARD_SIZE]
        places = [(first + place) // config.num_samples_per_prompt for place in range(len(part))]
        kept.add(places, part, _completions(completions, first))
    rows = kept.rows()
    tokens = kept.tokens
    counts = ElicitationCounts(
        prompts=len(prompt_ids),
        completions=len(completions),
        kept=len(rows),
        duplicates=len(completions) - kept.empty - len(rows),
        empty=kept.empty,
        inexact=kept.inexact,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
    )
    source = "The model" if config.server_url is None else "The server"
    chose = "" if options is None else f"chose among options {sum(map(bool, options))} times and "
    announce(
        f"{source} {chose}generated {tokens} tokens in {seconds:.1f} s, "
        f"{counts.tokens_per_second:.0f} tokens per second"
    )
    _log_dropped(counts)
    if counts.empty + counts.duplicates > _MANY * counts.completions:
        logger.warning(_why_dropped(counts, isinstance(prompts[0]["prompt"], str) and bool(tokenizer.chat_template)))
    if len(rows) == 0:
        contents = [
            c.content_ids for first in range(0, len(completions), SHARD_SIZE) for c in _completions(completions, first)
        ]
        raise ValueError(_all_empty(contents, tokenizer))
    return rows, counts


def _completions(completions: Dataset, first: int) -> list[Completion]:
    """A part of them."""
    columns = completions[first : first + SHARD_SIZE]
    return [Completion(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


class _Kept:
    """The rows that elicitation returns, and counts of the others, from parts of the completions in their order.

    Args:
        prompts: with the columns that rows keep.
        reader: of the answers' texts.
        with_options: whether rows get `other_options`.
        folder: where the rows lie; None: in memory.

    Attributes:
        empty, inexact, tokens: see `ElicitationCounts`.
    """

    def __init__(self, prompts: Dataset, reader: AnswerReader, with_options: bool, folder: str | Path | None):
        self._prompts, self._reader, self._with_options = prompts, reader, with_options
        self._messages = not isinstance(prompts[0]["prompt"], str)
        self._features = _features(self._messages, with_options)
        self._writer = RowWriter(Features({**prompts.features, **self._features}), folder)
        # Of each row written, 16 bytes: a set of them takes ten times as much memory.
        self._digests = bytearray()
        self.empty = self.inexact = self.tokens = 0

    def add(self, places: Sequence[int], requests: Sequence[Request], completions: Sequence[Completion]) -> None:
        """The next part: places of its prompts, what was asked, and what came back."""
        texts = self._reader.texts_or_tokens([c.content_ids for c in completions])
        rows, kept = [], []
        for place, request, completion, text in zip(places, requests, completions, texts, strict=True):
            if not text.strip():
                self.empty += 1
                continue
            self._digests += blake2b(repr((request.prompt_ids, text)).encode(), digest_size=16).digest()
            content = [{"role": "assistant", "content": text}] if self._messages else text
            rows.append(_row(request, completion, content, self._with_options))
            kept.append(place)
        self.inexact += sum(not c.exact for c in completions)
        self.tokens += sum(len(c.token_ids) for c in completions)
        if rows:
            table = self._prompts.with_format("arrow")[kept]
            added = Dataset.from_list(rows, self._features).data
            for name in self._features:
                table = table.append_column(name, added[name])
            self._writer.write(table)

    def rows(self) -> Dataset:
        """Those that were kept, without those that repeat an earlier one."""
        rows = self._writer.rows()
        _, first = numpy.unique(numpy.frombuffer(self._digests, "S16"), return_index=True)
        return rows if len(first) == len(rows) else rows.select(numpy.sort(first))


def _features(messages: bool, with_options: bool) -> Features:
    """Of the columns that elicitation adds."""
    message = {"role": Value("string"), "content": Value("string")}
    options = {OTHER_OPTIONS: List(List(Value("int64")))} if with_options else {}
    return Features(
        completion=List(message) if messages else Value("string"),
        completion_tokens=Value("int64"),
        mean_log_probability=Value("float64"),
        finish_reason=Value("string"),
        input_ids=List(Value("int32")),
        labels=List(Value("int64")),
        **options,
    )


def _all_empty(contents: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> str:
    """What to tell a user of whose completions, of which these are the tokens, none has text."""
    ended = sum(not ids for ids in contents)
    other = next((ids for ids in contents if ids), None)
    why = f"{ended} end at once"
    if other is not None:
        why += f", and {len(contents) - ended} hold nothing but white space or {tokenizer.decode(other[:8])!r}"
    return (
        f"all {len(contents)} completions are empty: {why}; check that prompts and chat template are those that the "
        "model was trained with, and that no prompt ends in a space"
    )


def _key(
    model: PreTrainedModel | PeftModel,
    prompt_ids: TokenLists,
    eos_token_ids: Sequence[int],
    config: ElicitationConfig,
    options: Sequence[tuple[tuple[int, ...], ...]] | None,
) -> str:
    """Hash of all that decides the completions; batch size and a server's address change them by rounding only."""
    sampling = {"temperature": config.temperature, "seed": config.seed} if config.temperature > 0 else {}
    chosen = {} if options is None else {"options": [[list(ids) for ids in own] for own in options]}
    return key_of(
        model=fingerprint_model(model),
        prompts=[blake2b(content, digest_size=16).hexdigest() for content in prompt_ids.content()],
        eos_token_ids=list(eos_token_ids),
        server_model=config.server_model,
        max_new_tokens=config.max_new_tokens,
        num_samples_per_prompt=config.num_samples_per_prompt,
        **sampling,
        **chosen,
    )


def _why_dropped(counts: ElicitationCounts, past_template: bool) -> str:
    """What to do where many completions are dropped; `past_template`: a chat model's template was not used."""
    reasons = [f"{counts.empty + counts.duplicates} of {counts.completions} answers cannot be used."]
    if counts.empty:
        reasons.append(f"{counts.empty} have no text, so that the model has nothing to say to these prompts.")
        if past_template:
            reasons.append(
                "The tokenizer has a chat template, and the prompts are plain text: give them as messages (in a "
                "recipe, prompt_style='chat' does so)."
            )
        else:
            reasons.append(
                "Check that prompts and chat template are those that the model was trained with, and that no prompt "
                "ends in a space."
            )
    if counts.duplicates:
        reasons.append(f"{counts.duplicates} repeat an earlier answer to the same prompt.")
        reasons.append(
            "Raise elicitation_temperature, or lower elicitation_num_samples_per_prompt."
            if counts.completions > counts.prompts
            else "Remove prompts that stand there more than once."
        )
    return " ".join(reasons)


def _log_dropped(counts: ElicitationCounts) -> None:
    logger.log(
        logging.INFO if counts.kept == counts.completions else logging.WARNING,
        "Elicitation kept %d of %d completions; dropped: %d duplicates, %d empty.",
        counts.kept,
        counts.completions,
        counts.duplicates,
        counts.empty,
    )
    if counts.inexact:
        logger.warning(
            "%d of %d completions came back as text that this tokenizer divides into other tokens than the server "
            "did; their input_ids have the tokenizer's.",
            counts.inexact,
            counts.completions,
        )


def _row(
    request: Request, completion: Completion, content: str | list[dict[str, str]], with_options: bool
) -> dict[str, Any]:
    prompt = request.prompt_ids
    row: dict[str, Any] = {
        "completion": content,
        "completion_tokens": len(completion.content_ids),
        "mean_log_probability": completion.mean_log_probability,
        "finish_reason": "stop" if completion.stopped else "length",
        "input_ids": [*prompt, *completion.token_ids],
        "labels": [IGNORE_INDEX] * len(prompt) + completion.token_ids,
    }
    if with_options:
        row[OTHER_OPTIONS] = [list(option) for option in request.options if list(option) != completion.token_ids]
    return row
