"""Prints the newest Python of this machine, if it is newer than the one that runs this and the tests can run with it.

    python release/newest_python.py torch==2.13.0

Looked for: `python3.x` on the PATH, versions of pyenv. The path goes to stdout, and why there is none to stderr.
Without a build of torch for the CPU the tests cannot run: others bring several GB of CUDA on Linux. The package is
compiled with that Python then, where a syntax warning is an error (exit 1).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src"
_TRIED = range(40, sys.version_info.minor, -1)


def candidates() -> Iterator[str]:
    """Interpreters newer than this one, the newest first; some may not start."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for minor in _TRIED:
        installed = pyenv.glob(f"versions/3.{minor}.*/bin/python")
        found = shutil.which(f"python3.{minor}")
        yield from ([] if found is None else [found]) + [str(path) for path in sorted(installed)]


def newest_python() -> str | None:
    """The first of them that starts and can make an environment."""
    for python in candidates():
        done = subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True, check=False)
        if done.returncode == 0:
            return python
    return None


def reason_against(python: str, torch: str) -> str | None:
    """Why the tests cannot run with this Python; none where they can."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        asked = ["install", "--dry-run", "--quiet", "--no-deps", "--only-binary", ":all:", "--report", "-"]
        done = subprocess.run(
            [f"{folder}/bin/python", "-m", "pip", *asked, torch], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        return f"pip finds no {torch} for it: {done.stderr.strip().splitlines()[-1]}"
    (found,) = json.loads(done.stdout)["install"]
    needs = found["metadata"].get("requires_dist", [])
    if sys.platform == "linux" and any(re.match(r"nvidia|cuda", name) for name in needs):
        return f"pip finds {torch} for it with CUDA only, of several GB ({found['download_info']['url']})"
    return None


def main() -> int:
    (torch,) = sys.argv[1:]
    python = newest_python()
    if python is None:
        print(f"No Python newer than 3.{sys.version_info.minor} starts here", file=sys.stderr)
        return 0
    reason = reason_against(python, torch)
    if reason is None:
        print(f"The newest Python here: {python}", file=sys.stderr)
        print(python)
        return 0
    print(f"SKIPPED the tests with the newest Python here, {python}: {reason}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as cache:
        strictly = ["-W", "error", "-X", f"pycache_prefix={cache}"]
        done = subprocess.run([python, *strictly, "-m", "compileall", "-q", "-f", str(PACKAGE)], check=False)
    print("The package compiles with it" if done.returncode == 0 else "It does not compile", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
