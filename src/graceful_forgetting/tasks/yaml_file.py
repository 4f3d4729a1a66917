"""Reading a YAML file whose every key counts: what YAML would drop or unfold in silence is an error with its line."""

from pathlib import Path
from typing import Any

import yaml

from graceful_forgetting.tasks.jsonl import not_utf8
from graceful_forgetting.tasks.task import shown

_DEEPEST = 64


def _error(mark: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, aliases (a few lines of them unfold to gigabytes) and deep nesting."""

    def __init__(self, stream: str):
        super().__init__(stream)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.events.AliasEvent):
            raise _error(event.start_mark, f"alias *{event.anchor} is not read: write the value out")
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _error(event.start_mark, f"nested deeper than {_DEEPEST} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise _error(key_node.start_mark, f"key {shown(key_node.value)} stands twice; keep one of them")
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> tuple[str, Any]:
    """The text of a YAML file and what it holds.

    Raises `ValueError` naming `path`, and the line where there is one, if it is no YAML, not UTF-8, has a key twice in
    one mapping, an alias, or more than 64 levels.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, "YAML") from error
    try:
        return text, yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{path} is not valid YAML: {line}{error.problem or error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    except ValueError as error:
        # Such as a number of more digits than Python reads, or a date that the calendar does not have.
        raise ValueError(f"{path} has a value that cannot be read: {error}; write it in quotes") from error
