"""From prompts to rows of self-knowledge."""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import IGNORE_INDEX, require_pad_token, require_tokenizer
from graceful_forgetting.elicitation.backends import open_backend
from graceful_forgetting.elicitation.cache import completions_key, read_completions, write_completions
from graceful_forgetting.elicitation.prompts import tokenize_prompts
from graceful_forgetting.elicitation.shards import complete_in_shards
from graceful_forgetting.generation import Completion, check_context, make_requests, stop_token_ids
from graceful_forgetting.runtime.distributed import gather, process_index

logger = logging.getLogger(__name__)


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
        seconds: time that generating them took (of the first time, where `cached`), without loading anything.
        tokens_per_second: tokens / seconds.
        cached: whether the completions were read from the cache.
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
    cached: bool


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
            generation prompt; columns `tools` and `chat_template_kwargs` reach it). Other columns are kept.
        config: settings; None takes the defaults.
        resume_dir: folder for finished shards of `config.shard_size` completions; a second call with the same
            arguments goes on from there. The caller removes it. Not needed with `config.cache_dir`, which is used
            for that as well.
        announce: receives how much was found finished, and how fast the rest was.

    Returns:
        The rows of `prompts` in their order, each `config.num_samples_per_prompt` times, without those whose
        completion is empty or repeats an earlier row (their number is logged), with the added columns
        `completion` (text without special tokens; for a list of messages a list with one message of the
        assistant), `completion_tokens` (without EOS), `mean_log_probability` (natural logarithm, mean over the
        generated tokens with EOS, under the model's own distribution), `finish_reason` ("stop" or "length"), and
        `input_ids` and `labels` with exactly the generated tokens.

    Sampling draws each completion from a random stream of its own, made from `config.seed`, the prompt and the number
    of the draw: neither batch size nor the order of the prompts matters. Rounding differs with the padding, so that a
    near tie may still fall differently. Only the backend `transformers` promises this. Each backend has streams of its
    own, 'continuous_batching' has one for a whole shard, and a server may not honour seeds (see its module).

    Several processes of one launch share the work, and all return the same.

    Raises:
        TypeError: `prompts` is not a `datasets.Dataset`, or `processing_class` is not a tokenizer.
        ImportError: the package of `config.backend` is not installed.
        ConnectionError: the server cannot be reached.
        ValueError: before any generation: no prompts, no `prompt` column, given completions, an empty prompt,
            one that leaves no room in the model's context, a backend that answers for another model; after it:
            nothing but empty completions, or log-probabilities that are not finite.
        RuntimeError: a backend failed at its work.
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
    eos_token_ids = stop_token_ids(model, tokenizer)
    prompt_ids = tokenize_prompts(prompts, tokenizer)
    check_context(prompt_ids, model, config.max_new_tokens)

    completions, seconds, cached = _completions(
        model, tokenizer, prompt_ids, config, pad_token_id, eos_token_ids, resume_dir, announce
    )
    texts = tokenizer.batch_decode([c.content_ids for c in completions], skip_special_tokens=True)
    asked = [ids for ids in prompt_ids for _ in range(config.num_samples_per_prompt)]
    kept, duplicates, empty = _without_repeats(asked, texts)
    tokens = sum(len(c.token_ids) for c in completions)
    counts = ElicitationCounts(
        prompts=len(prompt_ids),
        completions=len(completions),
        kept=len(kept),
        duplicates=duplicates,
        empty=empty,
        inexact=sum(not c.exact for c in completions),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        cached=cached,
    )
    announce(
        f"{config.backend} generated {tokens} tokens in {seconds:.1f} s, {counts.tokens_per_second:.0f} tokens per "
        f"second{' (from the cache)' if cached else ''}"
    )
    _log_dropped(counts)
    if not kept:
        raise ValueError(
            f"all {counts.completions} completions are empty: the model ends every answer at once; check that "
            "prompts and chat template are those that the model was trained with"
        )
    rows = prompts.with_format(None).select([i // config.num_samples_per_prompt for i in kept])
    conversational = [not isinstance(prompt, str) for prompt in rows["prompt"]]
    added = [
        _row(asked[i], completions[i], [{"role": "assistant", "content": texts[i]}] if messages else texts[i])
        for i, messages in zip(kept, conversational, strict=True)
    ]
    return concatenate_datasets([rows, Dataset.from_list(added)], axis=1), counts


def _completions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[list[int]],
    config: ElicitationConfig,
    pad_token_id: int,
    eos_token_ids: Sequence[int],
    resume_dir: str | Path | None,
    announce: Callable[[str], None],
) -> tuple[list[Completion], float, bool]:
    """The completions of every prompt's draws, the seconds they took, and whether they come from the cache."""
    requests = make_requests(prompt_ids, config)
    kept_on_disk = config.cache_dir is not None or resume_dir is not None
    key = completions_key(model, prompt_ids, eos_token_ids, config) if kept_on_disk else ""
    entry = None if config.cache_dir is None else Path(config.cache_dir) / f"elicitation-{key}"
    found = None if entry is None else read_completions(entry, len(requests))
    # The processes must agree, and need not see the same folder.
    found = next((each for each in gather(found) if each is not None), None)
    if found is not None:
        logger.info("Self-knowledge comes from the cache: %s", entry)
        return *found, True
    shards = None if entry is None else entry.with_name(f"{entry.name}-shards")
    completions, seconds = complete_in_shards(
        lambda: open_backend(
            model, tokenizer, requests, config, pad_token_id=pad_token_id, eos_token_ids=eos_token_ids
        ),
        requests,
        config.shard_size,
        shards if resume_dir is None else Path(resume_dir),
        key,
        announce,
    )
    if entry is not None and shards is not None and process_index() == 0:
        write_completions(entry, completions, seconds)
        shutil.rmtree(shards, ignore_errors=True)
    return completions, seconds, False


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


def _row(prompt: Sequence[int], completion: Completion, content: str | list[dict[str, str]]) -> dict[str, Any]:
    return {
        "completion": content,
        "completion_tokens": len(completion.content_ids),
        "mean_log_probability": completion.mean_log_probability,
        "finish_reason": "stop" if completion.stopped else "length",
        "input_ids": [*prompt, *completion.token_ids],
        "labels": [IGNORE_INDEX] * len(prompt) + completion.token_ids,
    }


def _without_repeats(prompt_ids: Sequence[Sequence[int]], texts: Sequence[str]) -> tuple[list[int], int, int]:
    """Indices to keep, number of duplicates, number of empty completions."""
    kept: list[int] = []
    seen: set[tuple[tuple[int, ...], str]] = set()
    empty = 0
    for index, (prompt, text) in enumerate(zip(prompt_ids, texts, strict=True)):
        key = (tuple(prompt), text)
        if not text.strip():
            empty += 1
        elif key not in seen:
            seen.add(key)
            kept.append(index)
    return kept, len(texts) - empty - len(kept), empty
