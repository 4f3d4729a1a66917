"""A long stage in numbered shards: dealt out among the processes of a launch, each saved when it is done."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from graceful_forgetting.runtime.distributed import gather, process_count, process_index, together
from graceful_forgetting.runtime.store import Entry

T = TypeVar("T")


def shard_entries(folder: str | Path | None, name: str, key: str, count: int) -> list[Entry] | None:
    """Where the shards of a stage are kept under its key; None without a folder: they are not kept."""
    if folder is None:
        return None
    keys = [f"{key}-{number:06d}" for number in range(count)]
    return [Entry(Path(folder) / f"{name}-{each}", each) for each in keys]


def share_shards(
    entries: Sequence[Entry] | None,
    count: int,
    load: Callable[[Entry], T | None],
    work: Callable[[list[int]], dict[int, T]],
    announce: Callable[[str], None],
    done: str,
) -> tuple[dict[int, T], list[dict[int, T]]]:
    """What the shards hold: by number those found finished, and by process those made by this call.

    Every process must call this, with the same arguments. An error on one is raised on all.

    Args:
        entries: one a shard; None where shards are not kept.
        count: number of shards.
        load: content of a finished shard; None where there is none that can be used.
        work: makes the shards with the given numbers, and saves them.
        announce: receives how many were found.
        done: what was done to them, as a participle.
    """
    loaded = together(lambda: {number: load(entry) for number, entry in enumerate(entries or ())})
    found = {number: each for number, each in loaded.items() if each is not None}
    # A folder that the processes do not share holds, for each, what it did itself.
    known = {number: each for part in gather(found) for number, each in part.items()}
    if known:
        announce(f"{len(known)} of {count} shards were {done} before")
    pending = [number for number in range(count) if number not in known][process_index() :: process_count()]
    return known, gather(together(lambda: work(pending)))
