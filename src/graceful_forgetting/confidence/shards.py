"""Measuring many rows: a share for each process, saved shard by shard."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graceful_forgetting.confidence.scorer import Measurement
from graceful_forgetting.gradients.rows import batches
from graceful_forgetting.runtime.artifacts import atomic_file
from graceful_forgetting.runtime.distributed import gather, process_count, process_index, raise_together
from graceful_forgetting.runtime.progress import progress_bar

logger = logging.getLogger(__name__)

# Rows between two saves.
SHARD_SIZE = 1024
_INDICES, _VALUES = "indices", "values"
# From this number of batches on, three of them are measured first to tell how long the rest will take.
_PILOT_BATCHES = 8


@dataclass(frozen=True)
class Plan:
    """Which rows are measured together, and after which batches they are saved.

    It depends on the rows and the settings alone, not on the number of processes: every row is measured in the
    same batch, and so with the same rounding, however many share the work.
    """

    batches: list[list[int]]
    shards: list[range]
    tokens: list[int]

    @classmethod
    def of(cls, lengths: Mapping[int, int], batch_size: int) -> "Plan":
        """Args: length by row index; rows per batch. A shard has `SHARD_SIZE` rows, rounded down to whole batches."""
        parts = batches(dict(lengths), batch_size)
        step = max(1, SHARD_SIZE // batch_size)
        shards = [range(start, min(start + step, len(parts))) for start in range(0, len(parts), step)]
        # Padding is computed with, so it counts.
        tokens = [len(indices) * max(lengths[index] for index in indices) for indices in parts]
        return cls(parts, shards, tokens)

    def rows(self, shard: int) -> list[int]:
        """The rows of a shard, in the order in which they are measured."""
        return [index for number in self.shards[shard] for index in self.batches[number]]


class ShardStore:
    """Finished shards on disk, one file each; those of other work are not seen.

    Args:
        folder: made if missing.
        key: hash of everything that the values depend on.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self._folder, self._key = Path(folder), key

    def path(self, shard: int) -> Path:
        return self._folder / f"scores-{self._key}-{shard:06d}.safetensors"

    def read(self, plan: Plan) -> dict[int, Tensor]:
        """Values (rows, columns) of the shards that are there and whole."""
        found = {}
        for shard in range(len(plan.shards)):
            if not self.path(shard).is_file():
                continue
            try:
                tensors = load_file(self.path(shard))
            except SafetensorError as error:
                logger.warning("%s is damaged (%s) and is made again", self.path(shard), error)
                continue
            if tensors[_INDICES].tolist() == plan.rows(shard):
                found[shard] = tensors[_VALUES]
        return found

    def write(self, plan: Plan, shard: int, values: Tensor) -> None:
        with atomic_file(self.path(shard)) as partial:
            save_file({_INDICES: torch.tensor(plan.rows(shard)), _VALUES: values}, partial)


def measure_rows(
    measurement: Measurement,
    num_rows: int,
    plan: Plan,
    store: ShardStore | None,
    announce: Callable[[str], None],
) -> dict[str, Tensor]:
    """Every column of the measurement, (num_rows,) float64, NaN in rows that are in no batch; on every process alike.

    Every process must call this, with the same arguments. Shards that are in `store` are taken from there; the
    others are dealt out among the processes.

    Args:
        announce: receives the estimate of the time before the work starts.
    """
    found = {} if store is None else store.read(plan)
    # A folder that the processes do not share holds, for each, what it did itself.
    known = {shard: values for part in gather(found) for shard, values in part.items()}
    if known:
        announce(f"{len(known)} of {len(plan.shards)} shards were scored before")
    pending = [shard for shard in range(len(plan.shards)) if shard not in known]
    own, error = {}, None
    try:
        with measurement.prepared():
            own = _measure_shards(measurement, plan, pending[process_index() :: process_count()], store, announce)
    except Exception as raised:
        error = raised
    raise_together(error)
    for part in gather(own):
        known |= part
    result = torch.full((num_rows, len(measurement.columns)), torch.nan, dtype=torch.float64)
    for shard, values in known.items():
        result[plan.rows(shard)] = values
    return dict(zip(measurement.columns, result.unbind(dim=1), strict=True))


def _measure_shards(
    measurement: Measurement,
    plan: Plan,
    shards: list[int],
    store: ShardStore | None,
    announce: Callable[[str], None],
) -> dict[int, Tensor]:
    def measured(number: int) -> Tensor:
        return measurement.checked(plan.batches[number])

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
            if store is not None:
                store.write(plan, shard, done[shard])
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
