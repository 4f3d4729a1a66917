"""Measuring many rows: a share for each process, saved shard by shard."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from graceful_forgetting.confidence.scorer import Measurement
from graceful_forgetting.gradients.rows import RowLengths, batches
from graceful_forgetting.runtime.batches import BatchLimit
from graceful_forgetting.runtime.distributed import process_count
from graceful_forgetting.runtime.progress import progress_bar
from graceful_forgetting.runtime.shards import share_shards
from graceful_forgetting.runtime.store import Entry

# Rows between two saves.
SHARD_SIZE = 1024
_FILE, _VALUES = "values.safetensors", "values"
# From this number of batches on, three of them are measured first to tell how long the rest will take.
_PILOT_BATCHES = 8


@dataclass(frozen=True)
class Plan:
    """Which rows are measured together, and after which batches they are saved.

    It depends on the rows and the settings alone, not on the number of processes: every row is measured in the
    same batch, and so with the same rounding, however many share the work.
    """

    batches: list[Sequence[int]]
    shards: list[range]
    tokens: list[int]

    @classmethod
    def of(cls, lengths: RowLengths, batch_size: int) -> "Plan":
        """Args: length by row index; rows per batch. A shard has `SHARD_SIZE` rows, rounded down to whole batches."""
        parts = batches(lengths, batch_size)
        step = max(1, SHARD_SIZE // batch_size)
        shards = [range(start, min(start + step, len(parts))) for start in range(0, len(parts), step)]
        # Padding is computed with, so it counts.
        tokens = [len(indices) * lengths[indices[0]] for indices in parts]
        return cls(parts, shards, tokens)

    def rows(self, shard: int) -> list[int]:
        """The rows of a shard, in the order in which they are measured."""
        return [index for number in self.shards[shard] for index in self.batches[number]]


def measure_rows(
    measurement: Measurement,
    num_rows: int,
    plan: Plan,
    entries: Sequence[Entry] | None,
    announce: Callable[[str], None],
) -> dict[str, Tensor]:
    """Every column of the measurement, (num_rows,) float64, NaN in rows that are in no batch; on every process alike.

    Every process must call this, with the same arguments. Shards that are in `entries` are taken from there; the
    others are dealt out among the processes.

    Args:
        announce: receives the estimate of the time before the work starts.
    """

    def work(shards: list[int]) -> dict[int, Tensor]:
        with measurement.prepared():
            return _measure_shards(measurement, plan, shards, entries, announce)

    known, made = share_shards(entries, len(plan.shards), _load, work, announce, "scored")
    result = torch.full((num_rows, len(measurement.columns)), torch.nan, dtype=torch.float64)
    for part in (known, *made):
        for shard, values in part.items():
            result[plan.rows(shard)] = values
    return dict(zip(measurement.columns, result.unbind(dim=1), strict=True))


def _load(entry: Entry) -> Tensor | None:
    return None if entry.read() is None else load_file(entry.path / _FILE)[_VALUES]


def _save(entry: Entry, values: Tensor) -> None:
    def fill(folder: Path) -> dict[str, Any]:
        save_file({_VALUES: values}, folder / _FILE)
        return {}

    entry.write(fill)


def _measure_shards(
    measurement: Measurement,
    plan: Plan,
    shards: list[int],
    entries: Sequence[Entry] | None,
    announce: Callable[[str], None],
) -> dict[int, Tensor]:
    limit = BatchLimit("Scoring", max(map(len, plan.batches)))

    def measured(number: int) -> Tensor:
        return torch.cat(limit.in_parts(plan.batches[number], measurement.checked))

    numbers = [number for shard in shards for number in plan.shards[shard]]
    ready, seconds = _pilot(measured, plan, numbers)
    if seconds is not None:
        several = "" if process_count() == 1 else f" on each of {process_count()} processes"
        announce(f"About {_duration(seconds)} for {len(numbers)} batches{several}")
    done = {}
    with progress_bar("Scoring", "samples", sum(len(plan.batches[number]) for number in numbers)) as progress:
        for shard in shards:
            parts = []
            for number in plan.shards[shard]:
                parts.append(ready.pop(number) if number in ready else measured(number))
                progress.update(len(plan.batches[number]))
            done[shard] = torch.cat(parts)
            if entries is not None:
                _save(entries[shard], done[shard])
    return done


def _pilot(measured: Callable[[int], Tensor], plan: Plan, numbers: list[int]) -> tuple[dict[int, Tensor], float | None]:
    """The shortest, the longest and a middling batch, and from the time of the last two that of all."""
    if len(numbers) < _PILOT_BATCHES:
        return {}, None
    # The first pass checks the rules and warms caches up, so it is not timed.
    ready = {numbers[-1]: measured(numbers[-1])}
    times = []
    for number in (numbers[0], numbers[len(numbers) // 2]):
        start = time.perf_counter()
        ready[number] = measured(number)
        times.append((plan.tokens[number], time.perf_counter() - start))
    (long, slow), (short, fast) = times
    per_token = min(max((slow - fast) / (long - short), 0.0), slow / long) if long > short else 0.0
    fixed = max(fast - per_token * short, 0.0)
    left = [number for number in numbers if number not in ready]
    return ready, sum(fixed + per_token * plan.tokens[number] for number in left)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
