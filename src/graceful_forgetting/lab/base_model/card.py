"""The model card of a built model: what it was trained on, how, and what was measured."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


def model_card(record: dict[str, Any]) -> str:
    """Markdown from what a build wrote into `model.json`."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(record)
