"""Keeping random number streams apart."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


@contextmanager
def preserved_rng(seed: int | None = None) -> Iterator[None]:
    """Run a block with its own random streams and leave the caller's (python, NumPy, torch, devices) untouched.

    Args:
        seed: torch seed inside the block; none keeps the streams as they are at entry.
    """
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng():
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
