"""Completing many requests: a share for each process, saved shard by shard."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import numpy
from datasets import Dataset, concatenate_datasets

from graceful_forgetting.elicitation.backends import Backend
from graceful_forgetting.generation import Completion, Request
from graceful_forgetting.generation.batched import longest_first
from graceful_forgetting.runtime.progress import progress_bar
from graceful_forgetting.runtime.shards import shard_entries, share_shards
from graceful_forgetting.runtime.store import Entry, read_rows

# Completions between two saves.
SHARD_SIZE = 1024
_ROWS = "completions"


def complete_in_shards(
    open_backend: Callable[[], AbstractContextManager[Backend]],
    requests: Sequence[Request],
    folder: str | Path | None,
    key: str,
    announce: Callable[[str], None],
) -> tuple[Dataset, float]:
    """Completions in the order of `requests`, a column a field, and the seconds that all took together.

    The longest prompts come first, so that a lack of memory shows at once. What is in a shard depends on the requests
    alone, and a shard is completed by itself: resumed is uninterrupted.

    Every process must call this, with the same arguments; the shards are dealt out among them.

    Args:
        open_backend: called at most once a process, and not at all where nothing is left to do.
        folder: of finished shards; None saves none.
        key: hash of all that decides the completions.
        announce: receives how many shards were there before.
    """
    order = longest_first(requests)
    shards = [order[first : first + SHARD_SIZE] for first in range(0, len(order), SHARD_SIZE)]
    entries = shard_entries(folder, "completions", f"{key}-{SHARD_SIZE}", len(shards))

    def work(numbers: list[int]) -> dict[int, tuple[Dataset, float]]:
        if not numbers:
            return {}
        with open_backend() as backend:
            return _complete(backend, requests, {number: shards[number] for number in numbers}, entries)

    known, made = share_shards(entries, len(shards), _load, work, announce, "elicited")
    seconds = sum(seconds for _, seconds in known.values())
    seconds += max(sum(seconds for _, seconds in part.values()) for part in made)
    for part in made:
        known |= part
    completions = concatenate_datasets([known[number][0] for number in range(len(shards))])
    return completions.select(numpy.argsort(order)), seconds


def _load(entry: Entry) -> tuple[Dataset, float] | None:
    record = entry.read()
    if record is None:
        return None
    return read_rows(entry.path / _ROWS), record["seconds"]


def _save(entry: Entry, completions: Dataset, seconds: float) -> None:
    def fill(folder: Path) -> dict[str, float]:
        completions.save_to_disk(str(folder / _ROWS))
        return {"seconds": seconds}

    entry.write(fill)


def _complete(
    backend: Backend, requests: Sequence[Request], shards: Mapping[int, Sequence[int]], entries: Sequence[Entry] | None
) -> dict[int, tuple[Dataset, float]]:
    """The completions of `shards`, which are places in `requests`, and the seconds of each, by number."""
    done = {}
    tokens, start = 0, time.perf_counter()
    with progress_bar("Eliciting self-knowledge", "answers", sum(map(len, shards.values()))) as progress:
        for number, places in shards.items():
            begun = time.perf_counter()
            completions: dict[int, Completion] = {}
            for position, completion in backend.complete([requests[i] for i in places]):
                completions[position] = completion
                tokens += len(completion.token_ids)
                progress.update()
                progress.set_postfix_str(f"{tokens / (time.perf_counter() - start):.0f} tokens/s", refresh=False)
            # As Python objects completions take ten times as much memory; read from their files they take none.
            rows = Dataset.from_list([asdict(completions[i]) for i in range(len(places))])
            seconds = time.perf_counter() - begun
            if entries is not None:
                _save(entries[number], rows, seconds)
                rows = read_rows(entries[number].path / _ROWS)
            done[number] = rows, seconds
    return done
