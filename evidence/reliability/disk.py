"""Runs on a disk that is too small, out of inodes or read-only; needs the right to mount (root).

    python -m evidence.reliability.disk                  archived as `disk.json`: minutes

A run that meets the end of a disk ends with code 2 and one message that has the path and what is free. With room made
it goes on, and leaves what a run leaves that met none. A finished run that is read-only is reported, evaluated, advised
and compared by a user who may write nothing there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from evidence.reliability.figures import save
from evidence.reliability.kill import started
from evidence.reliability.leftovers import differences, snapshot
from evidence.reliability.tiny import write_inputs

# Of `mount -o`, by what is lacking.
SMALL = {"space": [f"size={kib}k" for kib in (128, 256, 512, 1024)], "inodes": [f"nr_inodes={n}" for n in (20, 60, 90)]}
NOBODY = 65534


def strike(what: str, option: str, arguments: list[str], out: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """A run on a small disk, then with room."""
    output, wrong = out.with_suffix(".txt"), []
    output.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(out)], check=True)
    try:
        code = started(arguments, None, output, "disk")
        said = output.read_text(errors="replace")
        if code != 2:
            wrong.append(f"exit code {code}")
        if "Traceback" in said or said.count("cannot be written") != 1 or "inodes are free in" not in said:
            wrong.append("no message, or several")
        subprocess.run(["mount", "-o", "remount,size=64m,nr_inodes=4096", str(out)], check=True)
        if started(arguments, None, output, "disk") != 0:
            wrong.append("it does not go on")
        wrong += differences(expected, snapshot(out))
        if wrong:
            wrong.append(output.read_text(errors="replace")[-3000:])
    finally:
        subprocess.run(["umount", str(out)], check=True)
    return {"lacking": what, "option": option, "wrong": wrong}


def read_only(recipe: Path, out: Path, place: Path) -> list[dict[str, Any]]:
    """Every command that reads a finished run, as a user who may write nothing in it."""
    other, rows = out.with_name("other"), []
    shutil.copytree(out, other)
    place.mkdir()
    place.chmod(0o777)
    subprocess.run(["mount", "--bind", str(out), str(out)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(out)], check=True)
    try:
        for user in (0, NOBODY):
            for command in ("run", "report", "evaluate", "advise", "compare"):
                arguments = [command, "--config", str(recipe)]
                if command == "compare":
                    arguments = ["compare", str(out), str(other), "--output", str(place / f"{user}.html")]
                rows.append(
                    {
                        "lacking": "permission",
                        "option": f"{command}, user {user}",
                        "wrong": _read(arguments, user, place),
                    }
                )
    finally:
        subprocess.run(["umount", str(out)], check=True)
    return rows


def _read(arguments: list[str], user: int, place: Path) -> list[str]:
    output = place / "output.txt"
    output.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        os.environ["HOME"] = os.environ["HF_HOME"] = str(place)
        os.setgid(user)
        os.setuid(user)
        os._exit(started(arguments, None, output, "disk"))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = output.read_text(errors="replace")
    return [f"exit code {code}: {said[-2000:]}"] if code != 0 or "Traceback" in said or "running" in said else []


def run_disk() -> list[dict[str, Any]]:
    """A row for each disk and each command, with what is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        out = folder / "out"
        recipe, _ = write_inputs(folder / "inputs", out)
        arguments = ["run", "--config", str(recipe)]
        if started(arguments, None, folder / "output.txt", "whole") != 0:
            raise RuntimeError((folder / "output.txt").read_text()[-2000:])
        expected = snapshot(out)
        rows = read_only(recipe, out, folder / "place")
        for what, options in SMALL.items():
            rows += [strike(what, option, arguments, out, expected) for option in options]
        return rows


def main() -> int:
    rows = run_disk()
    for row in rows:
        print(f"{row['lacking']}, {row['option']}: {row['wrong'] or 'right'}")
    save("disk", {"rows": rows, "failed": [row for row in rows if row["wrong"]]})
    return int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
