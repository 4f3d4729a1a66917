"""Prints the lower bounds of pyproject.toml as constraints for pip: the oldest versions that the package admits.

python release/minimum_versions.py > build/minimum.txt
python release/minimum_versions.py torch     without these packages
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
_BOUND = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)\s*>=\s*(?P<version>[0-9][0-9a-z.]*)")


def minimum_versions(requirements: list[str]) -> dict[str, str]:
    """Lower bound by name. Raises `ValueError` for a requirement without one."""
    bounds = {}
    for requirement in requirements:
        found = _BOUND.match(requirement)
        if found is None:
            raise ValueError(f"{requirement!r} has no lower bound (name>=version): give it one")
        bounds[found["name"]] = found["version"]
    return bounds


def main() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    left_out = sys.argv[1:]
    for name, version in minimum_versions(project["dependencies"]).items():
        if name not in left_out:
            print(f"{name}=={version}")


if __name__ == "__main__":
    main()
