"""Compiling the CPU kernel, once a machine, and loading it."""

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from graceful_forgetting.runtime.artifacts import cache_root
from graceful_forgetting.runtime.store import Entry

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("tiles.c")
# Tried in this order: Apple's compiler has no OpenMP of its own, and some name the processor by -mcpu.
_FLAGS = (("-march={}", "-fopenmp"), ("-mcpu={}", "-fopenmp"), ("-march={}",), ("-mcpu={}",))
_COMMON = ("-O3", "-std=gnu11", "-fPIC", "-shared")
_SECONDS = 120
_LIBRARY = "tiles.so"


class NoCompilerError(RuntimeError):
    """There is no C compiler, or none that compiles the kernel."""


def load_library(processor: str = "native") -> ctypes.CDLL:
    """The kernel as a shared library, compiled for this processor if that was not done before.

    `processor` names another one, as the compiler does (`x86-64-v3`); this one has to understand its code.

    It is kept in `$GRACEFUL_CACHE` (default: `~/.cache/graceful-forgetting`) under a hash of its source, the compiler
    and what that knows of the processor, so that machines of several kinds may share a home.

    Raises:
        NoCompilerError: see there.
    """
    compiler = os.environ.get("CC") or next(
        (found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None
    )
    if compiler is None:
        raise NoCompilerError("no C compiler found (cc, gcc or clang)")
    failures = []
    for flags in (tuple(flag.format(processor) for flag in flags) for flags in _FLAGS):
        command = [*compiler.split(), *_COMMON, *flags]
        try:
            return ctypes.CDLL(str(_compiled(command)))
        except (OSError, subprocess.SubprocessError) as error:
            failures.append(f"{' '.join(flags)}: {_reason(error)}")
    raise NoCompilerError(f"{compiler} does not compile {SOURCE.name}: {'; '.join(failures)}")


def _compiled(command: list[str]) -> Path:
    """The library, checked by its hash, since loading a damaged one kills the process."""
    key = _key(command)

    def fill(folder: Path) -> dict[str, Any]:
        _run([*command, str(SOURCE), "-o", str(folder / _LIBRARY)])
        return {}

    return Entry(cache_root() / "kernels" / f"tiles-{key}", key).once(fill) / _LIBRARY


def _key(command: list[str]) -> str:
    """Changes with the source, the compiler, its flags and the processor's features."""
    macros = _run([*command, "-dM", "-E", "-x", "c", os.devnull])
    return hashlib.sha256(SOURCE.read_bytes() + " ".join(command).encode() + macros).hexdigest()[:20]


def _run(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS).stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return lines[0] if lines else f"exit code {error.returncode}"
    return str(error)
