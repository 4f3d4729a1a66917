"""Where the figures are archived, and how they are read."""

import json
from pathlib import Path
from typing import Any

from graceful_forgetting.runtime.artifacts import write_json

ARCHIVES = Path(__file__).parent / "archives"


def save(name: str, figures: dict[str, Any]) -> Path:
    """Archive the figures of a harness as `<name>.json`."""
    write_json(ARCHIVES / f"{name}.json", figures)
    return ARCHIVES / f"{name}.json"


def load(name: str) -> dict[str, Any] | None:
    """Figures that were archived; none where the harness has not run."""
    file = ARCHIVES / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
