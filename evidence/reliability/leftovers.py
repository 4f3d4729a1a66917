"""What a run leaves in its folder, without what differs between any two runs: times, memory, what follows of them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from graceful_forgetting.runtime.own_files import LIST_FILE

# Of a record: times and memory, checksums over them, and whether a stage was made or found.
_OF_THE_CALL = {
    "seconds",
    "training_seconds",
    "tokens_per_second",
    "peak_memory_bytes",
    "peak_device_memory_bytes",
    "checksum",
    "files",
    "inputs",
    "created",
    "status",
    "resumed_from",
    "command_line",
    "_fingerprint",
    "provenance",
}
# Of a log: averages since the last entry, which begin anew when a run is continued, and times.
_OF_THE_LOG = ("step", "epoch", "learning_rate", "grad_norm", "unlearn_updates")


def snapshot(folder: Path) -> dict[str, Any]:
    """File -> its content, as a hash or as what it says."""
    return {
        file.relative_to(folder).as_posix(): _content(file)
        for file in sorted(folder.rglob("*"))
        if not file.is_dir() and file.parent.name != "logs" and file.name != LIST_FILE
    }


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What one folder has and the other has not, and files with another content."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    litter = [f"{name} is left over" for name in found if name not in expected]
    other = [f"{name} differs" for name in expected if name in found and found[name] != expected[name]]
    return missing + litter + other


def _content(file: Path) -> Any:
    if file.name == "training_log.json":
        return _log(json.loads(file.read_text()))
    if file.suffix == ".json":
        return _lasting(json.loads(file.read_text()))
    # A page holds the times of its result, and what a lock holds is not read.
    if file.suffix in (".html", ".md") or file.name.endswith(".lock"):
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if name not in _OF_THE_CALL}
        return {name: _log(item) if name == "training_log" else _lasting(item) for name, item in kept.items()}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def _log(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: entry.get(name) for name in _OF_THE_LOG} for entry in entries]
