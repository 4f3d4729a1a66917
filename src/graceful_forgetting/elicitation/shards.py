"""Completing many requests: a share for each process, saved shard by shard."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from graceful_forgetting.elicitation.backends import Backend
from graceful_forgetting.elicitation.cache import read_completions, write_completions
from graceful_forgetting.generation import Completion, Request
from graceful_forgetting.generation.batched import longest_first
from graceful_forgetting.runtime.distributed import gather, process_count, process_index, raise_together
from graceful_forgetting.runtime.fingerprint import fingerprint_json
from graceful_forgetting.runtime.progress import progress_bar


def complete_in_shards(
    open_backend: Callable[[], AbstractContextManager[Backend]],
    requests: Sequence[Request],
    shard_size: int,
    folder: Path | None,
    key: str,
    announce: Callable[[str], None],
) -> tuple[list[Completion], float]:
    """Completions in the order of `requests`, and the seconds that they took, shards found before included.

    The longest prompts come first, so that a lack of memory shows at once. What is in a shard depends on the
    requests and `shard_size` alone, and a shard is completed by itself: resumed is uninterrupted.

    Every process must call this, with the same arguments; the shards are dealt out among them.

    Args:
        open_backend: called at most once a process, and not at all where nothing is left to do.
        folder: of finished shards; None saves none.
        key: hash of all that decides the completions.
        announce: receives how many shards were there before.
    """
    order = longest_first(requests)
    shards = [order[first : first + shard_size] for first in range(0, len(order), shard_size)]
    entries = [None if folder is None else folder / f"shard-{fingerprint_json([key, shard])}" for shard in shards]
    found = {}
    for number, (entry, shard) in enumerate(zip(entries, shards, strict=True)):
        if entry is not None and (read := read_completions(entry, len(shard))) is not None:
            found[number] = read
    # A folder that the processes do not share holds, for each, what it did itself.
    known = {number: read for part in gather(found) for number, read in part.items()}
    if known:
        announce(f"{len(known)} of {len(shards)} shards were elicited before")
    pending = [number for number in range(len(shards)) if number not in known][process_index() :: process_count()]

    own: dict[int, tuple[list[Completion], float]] = {}
    error = None
    try:
        if pending:
            with open_backend() as backend:
                _complete(backend, {number: [requests[i] for i in shards[number]] for number in pending}, entries, own)
    except Exception as raised:
        error = raised
    raise_together(error)

    seconds = sum(seconds for _, seconds in known.values())
    seconds += max(gather(sum(seconds for _, seconds in own.values())))
    for part in gather(own):
        known |= part
    completions = {i: c for number, shard in enumerate(shards) for i, c in zip(shard, known[number][0], strict=True)}
    return [completions[i] for i in range(len(requests))], seconds


def _complete(
    backend: Backend,
    shards: dict[int, list[Request]],
    entries: Sequence[Path | None],
    done: dict[int, tuple[list[Completion], float]],
) -> None:
    """Complete `shards`, by number, into `done`."""
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
            if (entry := entries[number]) is not None:
                write_completions(entry, *done[number])
