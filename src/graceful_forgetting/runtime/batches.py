"""How many rows go through a model at once: as many as asked for, and fewer where memory runs out."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

logger = logging.getLogger(__name__)

Row = TypeVar("Row")
Part = TypeVar("Part")


class BatchLimit:
    """The batch size of one stage, halved whenever memory cannot be allocated.

    Args:
        stage: what is done, for messages.
        size: rows at once to begin with.

    Attributes:
        size: rows at once at present.
    """

    def __init__(self, stage: str, size: int) -> None:
        self.stage, self.size = stage, size
        self._ran_out = False

    def in_parts(self, rows: Sequence[Row], work: Callable[[Sequence[Row]], Part]) -> list[Part]:
        """`work` of all `rows`, part by part in their order; a part for which memory runs out is done again in halves.

        Args:
            work: leaves nothing behind where it raises.

        Raises:
            ValueError: as `attempt`.
        """
        found: list[Part] = []
        first = 0
        while first < len(rows):
            part = rows[first : first + self.size]
            with self.attempt(len(part)):
                found.append(work(part))
                first += len(part)
        return found

    @contextmanager
    def attempt(self, rows: int) -> Iterator[None]:
        """Around work on `rows` rows at once: a failure to allocate memory ends the block, and halves `size`.

        Raises:
            ValueError: memory runs out for a single row.
        """
        if self._ran_out:
            # Only here are the frames gone that held on to what had been allocated.
            clear_device_cache(garbage_collection=True)
            self._ran_out = False
        try:
            yield
        except Exception as error:
            if not out_of_memory(error):
                raise
            wanted = re.search(r"[Tt]ried (to allocate [\d.]+ \w+)", str(error))
            why = f" (tried {wanted[1]})" if wanted else ""
            if rows <= 1:
                raise ValueError(
                    f"{self.stage} runs out of memory with one row at a time{why}: end other programs that use it, "
                    "shorten the longest rows or answers (elicitation_max_new_tokens, eval_max_new_tokens), load the "
                    "model in bfloat16, or take a smaller model"
                ) from error
            self.size, self._ran_out = (rows + 1) // 2, True
            logger.warning(
                "%s runs out of memory with %d rows at once%s, and goes on with %d. The result is the same but for "
                "rounding.",
                self.stage,
                rows,
                why,
                self.size,
            )


def out_of_memory(error: Exception) -> bool:
    """Whether memory could not be allocated, on an accelerator or of the machine."""
    return isinstance(error, MemoryError) or should_reduce_batch_size(error)
