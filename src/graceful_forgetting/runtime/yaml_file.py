"""Mappings in YAML files, read strictly: what PyYAML takes in silence, or never ends on, is an error with its line."""

import math
from pathlib import Path
from typing import Any

import yaml

# Values of a file with every alias written out. Recipes and grids have hundreds.
_MOST_VALUES = 100_000
_DEEPEST = 50


def read_mapping(path: str | Path, where: str) -> dict[str, Any]:
    """The mapping in a YAML file; raises as `read_yaml`, and `ValueError` where it holds something else."""
    _, content = read_yaml(path, where)
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold keys and values (`key: value`)")
    return {str(name): value for name, value in content.items()}


def read_yaml(path: str | Path, where: str) -> tuple[str, Any]:
    """The text of a YAML file and what it holds; `where` names the file in errors, as the user typed it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, not YAML, the same key twice, aliases that contain themselves or grow without measure,
            lists in lists without end.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"{where}: there is no such file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        raise ValueError(f"{where}, line {line}, is not UTF-8 text: save the file as UTF-8") from error
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ValueError(
            f"{where}, line {line}, has the control character {error.character:#04x}: remove it"
        ) from error
    try:
        node = loader.get_single_node()
        if node is not None:
            _check(node, where, {}, 0)
        content = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{where}: lists or mappings are nested more than {_DEEPEST} deep") from error
    except (ValueError, OverflowError) as error:
        # A date or a number that YAML's grammar accepts and Python does not.
        message = str(error)
        unread = f"{where} has a value that cannot be read ({message.partition(';')[0][:120]}): write it in quotes"
        raise ValueError(message if message.startswith(where) else unread) from error
    finally:
        loader.dispose()
    return text, content


def _check(node: yaml.Node, where: str, sizes: dict[int, float], depth: int) -> float:
    """How many values a node stands for with its aliases written out; raises where it is none to build."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        return 1
    known = sizes.get(id(node))
    if known is not None:
        if math.isinf(known):
            raise ValueError(f"{where}, line {line}: an alias stands for a value that contains it; write the value out")
        return known
    if depth > _DEEPEST:
        raise ValueError(f"{where}, line {line}: lists or mappings are nested more than {_DEEPEST} deep")
    sizes[id(node)] = math.inf
    children = list(node.value)
    if isinstance(node, yaml.MappingNode):
        _check_keys(node, where)
        children = [part for pair in node.value for part in pair]
    size = 1 + sum(_check(child, where, sizes, depth + 1) for child in children)
    if size > _MOST_VALUES:
        raise ValueError(f"{where}, line {line}: its aliases stand for more than {_MOST_VALUES} values; write fewer")
    sizes[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode, where: str) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        # `<<` merges another mapping in, and may do so more than once.
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.value in lines:
            raise ValueError(f"{where} has {key.value!r} twice, in lines {lines[key.value]} and {line}: keep one")
        lines[key.value] = line
