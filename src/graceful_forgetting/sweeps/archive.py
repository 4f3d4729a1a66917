"""All cells of a sweep in one file that is small enough to be committed: JSON lines.

The first line has the version; then lines with what several cells have in common (provenance, scores), each
under its hash; then one line a cell, with those hashes, and with its config as the difference to the first cell's.
Of absolute paths on a command line the last part is kept: an archive is for others, and says nothing of one's folders.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graceful_forgetting.runtime.artifacts import atomic_file
from graceful_forgetting.runtime.hashes import fingerprint_json
from graceful_forgetting.sweeps.cell import CELL_SCHEMA_VERSION, CellResult, compact_json

_COMMON = ("provenance", "scores")


def write_archive(cells: Sequence[CellResult], path: str | Path) -> None:
    """Write the cells, atomically; the same cells give the same bytes. Raises `ValueError` if there are none."""
    if not cells:
        raise ValueError("cells is empty: there is nothing to archive")
    contents = [cell.to_json() for cell in cells]
    config = contents[0]["config"]
    lines = [compact_json({"cell_schema_version": CELL_SCHEMA_VERSION, "config": config})]
    known: set[str] = set()
    for content in contents:
        del content["cell_schema_version"]
        content["provenance"]["command_line"] = [
            _without_folders(argument) for argument in content["provenance"]["command_line"]
        ]
        for name in _COMMON:
            key = fingerprint_json(content[name])
            if key not in known:
                known.add(key)
                lines.append(compact_json({"common": key, "content": content[name]}))
            content[name] = key
        content["config"] = {
            "changed": {k: v for k, v in content["config"].items() if k not in config or config[k] != v},
            "without": sorted(set(config) - set(content["config"])),
        }
        lines.append(compact_json(content))
    with atomic_file(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _without_folders(argument: str) -> str:
    if Path(argument).is_absolute():
        return Path(argument).name
    name, equals, value = argument.partition("=")
    return f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def read_archive(path: str | Path) -> list[CellResult]:
    """The cells that `write_archive` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another version, or a damaged line, by its number.
    """
    path = Path(path)
    cells: list[CellResult] = []
    common: dict[str, Any] = {}
    header: dict[str, Any] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            content = json.loads(line)
            if number == 1:
                header = content
            elif "common" in content:
                common[content["common"]] = content["content"]
            else:
                cells.append(_cell(content, header, common, where))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{where} is not a line of an archive of cells ({error!r})") from error
    return cells


def _cell(content: dict[str, Any], header: dict[str, Any], common: dict[str, Any], where: str) -> CellResult:
    config = {k: v for k, v in header["config"].items() if k not in content["config"]["without"]}
    restored = {
        **content,
        **{name: common[content[name]] for name in _COMMON},
        "config": {**config, **content["config"]["changed"]},
        "cell_schema_version": header["cell_schema_version"],
    }
    return CellResult.from_json(restored, where)
