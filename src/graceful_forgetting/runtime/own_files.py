"""Files that a user sees in a folder of their own choice: results, pages, tables.

One is replaced only where this program made it. Beside those of a run or a sweep lies a list of them with their
SHA-256, so that a damaged one is known to be ours, and one that was changed is not read.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from graceful_forgetting.runtime.artifacts import file_sha256, read_json, write_json

LIST_FILE = ".graceful-forgetting.json"
# What a file of ours has in its first bytes, by what it is.
RESULT, CELL, TUNING = b'"schema_version"', b'"cell_schema_version"', b'"seeds"'
TABLES, BENCHMARK = b"<!-- graceful-forgetting tables -->", b'"hardware"'
_HEAD = 4096


def page_sign(template: str) -> bytes:
    """What a page made from this template begins with."""
    return f'<meta name="generator" content="graceful-forgetting {template}">'.encode()


def claim_file(path: str | Path, sign: bytes) -> None:
    """Refuse to replace what this program did not make, or made as something else.

    Args:
        path: what is to be written; it need not exist.
        sign: what the content begins with, see above.

    Raises:
        FileExistsError: names the file.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    listed = _listed(path.parent).get(path.name)
    if path.is_file() and not path.is_symlink():
        if listed is not None and listed[0] == sign.decode():
            return
        with path.open("rb") as file:
            if sign in file.read(_HEAD):
                return
        # A list of ours that has changed places with what it lists.
        if _read_list(path):
            return
    raise FileExistsError(
        f"{path} is not a file of this kind that this program has written, so it is not replaced: move it away, or "
        "name another place"
    )


def list_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Enter files of `folder`, with their signs, in its list, as they are at this moment."""
    entries = {name: (sign.decode(), file_sha256(folder / name)) for name, sign in files.items()}
    write_json(folder / LIST_FILE, {**_listed(folder), **entries})


def check_file(path: Path, must_be_listed: bool = False) -> None:
    """Refuse a file that changed after it was written; one that is not listed passes, unless it must be.

    Raises:
        ValueError: names the file.
    """
    listed = _listed(path.parent).get(path.name)
    if listed is None and not must_be_listed:
        return
    if listed is None or listed[1] != file_sha256(path):
        raise ValueError(f"{path} is not as it was written: make it again with the command that wrote it")


def _listed(folder: Path) -> dict[str, tuple[str, str]]:
    """The list of a folder; empty where there is none, or a damaged one."""
    return _read_list(folder / LIST_FILE)


def _read_list(file: Path) -> dict[str, tuple[str, str]]:
    try:
        found = {name: (str(sign), str(digest)) for name, (sign, digest) in read_json(file).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return found if all(re.fullmatch("[0-9a-f]{64}", digest) for _, digest in found.values()) else {}
