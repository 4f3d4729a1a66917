"""Completing many requests: a share for each process, saved shard by shard."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset

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
) -> tuple[list[Completion], float]:
    """Completions in the order of `requests`, and the seconds that they took, shards found before included.

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

    def work(numbers: list[int]) -> dict[int, tuple[list[Completion], float]]:
        if not numbers:
            return {}
        with open_backend() as backend:
            return _complete(backend, {number: [requests[i] for i in shards[number]] for number in numbers}, entries)

    known, made = share_shards(entries, len(shards), _load, work, announce, "elicited")
    seconds = sum(seconds for _, seconds in known.values())
    seconds += max(sum(seconds for _, seconds in part.values()) for part in made)
    for part in made:
        known |= part
    completions = {i: c for number, shard in enumerate(shards) for i, c in zip(shard, known[number][0], strict=True)}
    return [completions[i] for i in range(len(requests))], seconds


def _load(entry: Entry) -> tuple[list[Completion], float] | None:
    record = entry.read()
    if record is None:
        return None
    return [Completion(**row) for row in read_rows(entry.path / _ROWS).to_list()], record["seconds"]


def _save(entry: Entry, completions: Sequence[Completion], seconds: float) -> None:
    def fill(folder: Path) -> dict[str, float]:
        Dataset.from_list([asdict(completion) for completion in completions]).save_to_disk(str(folder / _ROWS))
        return {"seconds": seconds}

    entry.write(fill)


def _complete(
    backend: Backend, shards: dict[int, list[Request]], entries: Sequence[Entry] | None
) -> dict[int, tuple[list[Completion], float]]:
    """The completions of `shards`, and the seconds of each, by number."""
    done = {}
    tokens, start = 0, time.perf_counter()
    with progress_bar("Eliciting self-knowledge", "answers", sum(map(len, shards.values()))) as progress:
        for number, requests in shards.items():
            begun = time.perf_counter()
            completions: dict[int, Completion] = {}
            for position, completion in backend.complete(requests):
                completions[position] = completion
                tokens += len(completion.token_ids)
                progress.update()
                progress.set_postfix_str(f"{tokens / (time.perf_counter() - start):.0f} tokens/s", refresh=False)
            done[number] = [completions[i] for i in range(len(requests))], time.perf_counter() - begun
            if entries is not None:
                _save(entries[number], *done[number])
    return done
