"""Stage 1 of the method: the base model answers the prompts of the forgetting tasks.

The pre-training data are out of reach, so the model's own completions stand for what it knows there
(Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv 2505.19715).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_from_disk
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from graceful_forgetting import __version__
from graceful_forgetting.artifacts import atomic_directory, read_json, write_json
from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import IGNORE_INDEX, require_pad_token, require_tokenizer, tokenize_prompt
from graceful_forgetting.fingerprint import fingerprint_json, fingerprint_model
from graceful_forgetting.generation import Completion, check_context, generate_completions, stop_token_ids

logger = logging.getLogger(__name__)

_ADDED_COLUMNS = ("completion_tokens", "mean_log_probability", "finish_reason", "input_ids", "labels")
_CACHE_FORMAT = 1


@dataclass(frozen=True)
class ElicitationCounts:
    """What became of the prompts.

    Attributes:
        prompts: prompts asked = kept + duplicates + empty.
        kept: rows returned.
        duplicates: dropped because an earlier row has the same prompt and completion.
        empty: dropped because the completion has no text.
        tokens: tokens generated, EOS included, for all prompts.
        seconds: time that generating them took (of the first time, where `cached`).
        cached: whether the completions were read from the cache.
    """

    prompts: int
    kept: int
    duplicates: int
    empty: int
    tokens: int
    seconds: float
    cached: bool


def elicit_self_knowledge(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Dataset,
    config: ElicitationConfig | None = None,
) -> Dataset:
    """Let the model answer the prompts; its answers are its self-knowledge.

    Args:
        model: the base model. Its mode, generation settings and the caller's random state are left as they
            were; its own generation settings (temperature, penalties, ...) are not used.
        processing_class: its tokenizer.
        prompts: rows with a column `prompt`, each a string or a list of messages (chat template with
            generation prompt; columns `tools` and `chat_template_kwargs` reach it). Other columns are kept.
        config: settings; None takes the defaults.

    Returns:
        The rows of `prompts` in their order, without those whose completion is empty or repeats an earlier
        row (their number is logged), with the added columns `completion` (text without special tokens, also
        for conversational prompts), `completion_tokens` (without EOS), `mean_log_probability` (natural
        logarithm, mean over the generated tokens with EOS, under the model's own distribution),
        `finish_reason` ("stop" or "length"), and `input_ids` and `labels` with exactly the generated tokens.

    Sampling draws row i from a random stream of its own, made from `config.seed` and i: neither batch size
    nor batch order matters. Rounding differs with the padding, so that a near tie may still fall differently.

    Raises:
        TypeError: `prompts` is not a `datasets.Dataset`, or `processing_class` is not a tokenizer.
        ValueError: before any generation: no prompts, no `prompt` column, given completions, an empty prompt,
            one that leaves no room in the model's context; after it: nothing but empty completions, or
            log-probabilities that are not finite.
    """
    return elicit_with_counts(model, processing_class, prompts, config)[0]


def elicit_with_counts(
    model: PreTrainedModel | PeftModel,
    processing_class: PreTrainedTokenizerBase,
    prompts: Dataset,
    config: ElicitationConfig | None = None,
) -> tuple[Dataset, ElicitationCounts]:
    """`elicit_self_knowledge`, and how many completions were dropped and why."""
    config = config or ElicitationConfig()
    tokenizer = require_tokenizer(processing_class, "prompts")
    pad_token_id = require_pad_token(tokenizer)
    eos_token_ids = stop_token_ids(model, tokenizer)
    prompt_ids = _prompt_ids(prompts, tokenizer)
    check_context(prompt_ids, model, config.max_new_tokens)

    entry = _cache_entry(model, prompt_ids, eos_token_ids, config)
    found = _read_cache(entry, len(prompt_ids)) if entry is not None else None
    if found is not None:
        completions, seconds = found
    else:
        start = time.perf_counter()
        completions = generate_completions(
            model, prompt_ids, config, pad_token_id=pad_token_id, eos_token_ids=eos_token_ids
        )
        seconds = time.perf_counter() - start
        if entry is not None:
            _write_cache(entry, completions, seconds)

    texts = tokenizer.batch_decode([c.content_ids for c in completions], skip_special_tokens=True)
    kept, duplicates, empty = _without_repeats(prompt_ids, texts)
    counts = ElicitationCounts(
        prompts=len(completions),
        kept=len(kept),
        duplicates=duplicates,
        empty=empty,
        tokens=sum(len(c.token_ids) for c in completions),
        seconds=seconds,
        cached=found is not None,
    )
    logger.log(
        logging.INFO if counts.kept == counts.prompts else logging.WARNING,
        "Elicitation kept %d of %d completions; dropped: %d duplicates, %d empty.",
        counts.kept,
        counts.prompts,
        counts.duplicates,
        counts.empty,
    )
    if not kept:
        raise ValueError(
            f"all {counts.prompts} completions are empty: the model ends every answer at once; check that "
            "prompts and chat template are those that the model was trained with"
        )
    added = [_row(prompt_ids[i], completions[i], texts[i]) for i in kept]
    rows = prompts.with_format(None).select(kept)
    return concatenate_datasets([rows, Dataset.from_list(added)], axis=1), counts


def _row(prompt: Sequence[int], completion: Completion, text: str) -> dict[str, Any]:
    return {
        "completion": text,
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


def _prompt_ids(prompts: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if not isinstance(prompts, Dataset):
        raise TypeError(f"prompts must be a datasets.Dataset, not {type(prompts).__name__}")
    columns = ", ".join(prompts.column_names) or "none"
    if "prompt" not in prompts.column_names:
        raise ValueError(f"prompts needs a column `prompt`; its columns: {columns}")
    if len(prompts) == 0:
        raise ValueError("prompts has no rows: elicitation needs at least one prompt")
    if "completion" in prompts.column_names:
        raise ValueError(
            "prompts has a column `completion`: given answers need no elicitation; score them as they are, "
            'or prompts.remove_columns("completion") to let the model answer instead'
        )
    taken = [name for name in _ADDED_COLUMNS if name in prompts.column_names]
    if taken:
        raise ValueError(
            f"prompts already has columns that elicitation adds: {', '.join(taken)}; remove or rename them"
        )
    ids = []
    for index, row in enumerate(prompts.with_format(None)):
        if not row["prompt"] or not isinstance(row["prompt"], str | list):
            raise ValueError(
                f"prompts: row {index} has prompt {row['prompt']!r}; it must be a string or a list of "
                "messages, not empty"
            )
        ids.append(tokenize_prompt(row, tokenizer))
        if not ids[-1]:
            raise ValueError(f"prompts: row {index} has no tokens (prompt {row['prompt']!r}); remove it")
    return ids


def _cache_entry(
    model: PreTrainedModel | PeftModel,
    prompt_ids: Sequence[Sequence[int]],
    eos_token_ids: Sequence[int],
    config: ElicitationConfig,
) -> Path | None:
    """Folder of these completions; its name is the hash of all that decides them. None without `cache_dir`.

    The batch size is left out: it changes the result by rounding only.
    """
    if config.cache_dir is None:
        return None
    settings: dict[str, Any] = {"max_new_tokens": config.max_new_tokens, "do_sample": config.do_sample}
    if config.do_sample:
        settings |= {"temperature": config.temperature, "top_p": config.top_p, "seed": config.seed}
        settings |= {"random_stream": model.device.type}
    key = {
        "format": _CACHE_FORMAT,
        "version": __version__,
        "model": fingerprint_model(model),
        "prompts": [list(ids) for ids in prompt_ids],
        "eos_token_ids": list(eos_token_ids),
        "settings": settings,
    }
    return Path(config.cache_dir) / f"elicitation-{fingerprint_json(key)}"


def _write_cache(entry: Path, completions: Sequence[Completion], seconds: float) -> None:
    rows = [asdict(completion) for completion in completions]
    with atomic_directory(entry) as partial:
        Dataset.from_list(rows).save_to_disk(str(partial / "completions"))
        write_json(
            partial / "header.json",
            {"format": _CACHE_FORMAT, "seconds": seconds, "rows": fingerprint_json(rows)},
        )


def _read_cache(entry: Path, prompts: int) -> tuple[list[Completion], float] | None:
    """Completions and the time they took; None where there are none or the entry is damaged (logged)."""
    if not entry.exists():
        return None
    try:
        header = read_json(entry / "header.json")
        rows = load_from_disk(str(entry / "completions"), keep_in_memory=True).to_list()
        if len(rows) != prompts or fingerprint_json(rows) != header["rows"]:
            raise ValueError("its content is not what was written")
        seconds = float(header["seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("The cached completions in %s are damaged (%s): generating them again.", entry, error)
        return None
    logger.info("Self-knowledge comes from the cache: %s", entry)
    return [Completion(**row) for row in rows], seconds
