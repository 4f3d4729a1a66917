"""Lets accelerate choose FSDP for processes on the CPU; Python runs this at its start where it is on PYTHONPATH.

accelerate 1.15 chooses FSDP for devices alone and falls back to DDP on the CPU without a word
(`AcceleratorState.__init__`). What it then calls, `fully_shard` and DTensor over gloo, works there.
"""

import gc
from typing import Any

# Of every launch the imports take longest, and a fifth of their time is looking for garbage that they do not make.
gc.set_threshold(50_000, 20, 100)

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_original = AcceleratorState.__init__


def _init(self: AcceleratorState, *positional: Any, fsdp_plugin: Any = None, **keywords: Any) -> None:
    _original(self, *positional, fsdp_plugin=fsdp_plugin, **keywords)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        print("FSDP on the CPU", flush=True)
        self.fsdp_plugin = fsdp_plugin
        self.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


AcceleratorState.__init__ = _init
