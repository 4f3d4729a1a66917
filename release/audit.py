"""Compares the tested versions with the known vulnerabilities; says aloud where that cannot be done.

    python release/audit.py constraints.txt      exit 1 with a line a vulnerability

`pip-audit` reads its data from the package index. One that has none, as a mirror, is told by a version with
vulnerabilities that have been known for years: pip-audit would find nothing in anything there.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

KNOWN = "jinja2==2.10"


def vulnerabilities(requirements: str) -> list[str] | None:
    """A line for each that is known; None where pip-audit gives no answer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.txt")
        file.write_text(requirements, encoding="utf-8")
        asked = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "-r", str(file)]
        done = subprocess.run([sys.executable, "-m", "pip_audit", *asked], capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", [])
    ]


def pinned(constraints: str) -> str:
    """The lines that name one version."""
    lines = (line.partition("#")[0].strip() for line in constraints.splitlines())
    return "\n".join(line for line in lines if "==" in line) + "\n"


def main() -> int:
    (constraints,) = sys.argv[1:]
    if not vulnerabilities(KNOWN):
        print("NOT RUN: pip-audit, since its data on vulnerabilities cannot be had here", file=sys.stderr)
        return 0
    found = vulnerabilities(pinned(Path(constraints).read_text(encoding="utf-8")))
    if found is None:
        print("NOT RUN: pip-audit gave no answer for the tested versions", file=sys.stderr)
        return 0
    for line in found:
        print(line)
    print(f"{len(found)} known vulnerabilities in the tested versions", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
