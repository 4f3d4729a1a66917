"""What made a result: versions, machine, commit, fingerprints; and how much memory a stage took."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from graceful_forgetting.results.result import Device, Hardware, Provenance
from graceful_forgetting.runtime.processor import processor_name
from graceful_forgetting.runtime.secrets import public_arguments

PACKAGES = (
    "graceful-forgetting",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "scipy",
)


@dataclass(frozen=True)
class PeakMemory:
    """Highest memory since `reset_peak_memory`, in bytes: of the process, of all CUDA devices (or None)."""

    process_bytes: int
    device_bytes: int | None


def reset_peak_memory() -> None:
    """Start a new measurement for `peak_memory`.

    On Linux and on CUDA the high-water mark restarts; on other systems the process peak is that of its
    whole life.
    """
    if sys.platform == "linux":
        # Read-only in some containers: the peak of the whole life of the process is then still a true bound.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def peak_memory() -> PeakMemory:
    """Highest resident memory of this process and highest memory allocated on CUDA devices."""
    device_bytes = None
    if torch.cuda.is_available():
        device_bytes = sum(torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count()))
    return PeakMemory(_process_peak_bytes(), device_bytes)


def _process_peak_bytes() -> int:
    if sys.platform == "linux":
        # Not getrusage: its ru_maxrss survives exec, so a child starts with the peak of its parent.
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found.group(1)) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # Unix only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


def collect_hardware() -> Hardware:
    """The machine that this process runs on."""
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(Device(properties.name, int(properties.total_memory)))
    return Hardware(
        cpu_count=os.cpu_count() or 1,
        torch_threads=torch.get_num_threads(),
        memory_bytes=int(psutil.virtual_memory().total),
        devices=devices,
        processor=processor_name(),
    )


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Installed versions, of this package and those that its numbers depend on where nothing else is named."""
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def git_commit() -> str | None:
    """Commit of the checkout that this package is imported from, "-dirty" if changed; None outside one."""
    folder, this_file = Path(__file__).parent, Path(__file__).name

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An installed copy may lie inside someone else's repository, whose commit says nothing about this
    # package.
    if not git("ls-files", "--error-unmatch", this_file):
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def collect_provenance(
    *,
    model_fingerprint: str,
    data_fingerprints: Mapping[str, str],
    posterior_fingerprint: str | None,
    seeds: Sequence[int],
    command_line: Sequence[str] | None = None,
) -> Provenance:
    """Record versions, machine and commit beside the given fingerprints.

    `data_fingerprints`: by data set name. `command_line`: None = that of this process; credentials in it
    are hidden.
    """
    return Provenance(
        packages=package_versions(),
        python=platform.python_version(),
        platform=platform.platform(),
        git_commit=git_commit(),
        hardware=collect_hardware(),
        model_fingerprint=model_fingerprint,
        data_fingerprints=dict(data_fingerprints),
        posterior_fingerprint=posterior_fingerprint,
        seeds=list(seeds),
        command_line=public_arguments(
            [Path(sys.argv[0]).name, *sys.argv[1:]] if command_line is None else command_line
        ),
    )
