"""Python's cyclic garbage collection, kept out of work that makes many objects and no cycles."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """No cyclic garbage collection inside: each pass would look at all rows that are held, a fifth of the time of
    reading and checking 100,000 conversations.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
