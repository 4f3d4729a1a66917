"""Which processor this is: what is trained on a CPU depends on it, in the last digits of every sum."""

import platform
import re
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Its name and the widest vector instructions that torch uses, as "Intel(R) Xeon(R) Processor, AVX512".

    The same seeds, code and versions give other weights on a processor of another kind, since the order in which
    numbers are added differs: https://docs.pytorch.org/docs/stable/notes/randomness.html.
    """
    name = platform.processor() or platform.machine()
    if _CPU_INFO.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", _CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE)
        name = found[1].strip() if found else name
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"
