"""Runs on a disk that is too small, out of inodes or read-only; needs the right to mount (root).

    python -m evidence.reliability.disk                  archived as `disk.json`: minutes

A run that meets the end of a disk ends with code 2 and one message that has the path and what is free. With room made
it goes on, and leaves what a run leaves that met none. A finished run that is read-only is reported, evaluated, advised
and compared by a user who may write nothing there.
"""

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
    """Every command that reads a finished run, where nothing may be written in it."""
    other, rows = out.with_name("other"), []
    shutil.copytree(out, other)
    place.mkdir()
    commands = {name: [name, "--config", str(recipe)] for name in ("run", "report", "evaluate", "advise")}
    commands["compare"] = ["compare", str(out), str(other), "--output", str(place / "comparison.html")]
    subprocess.run(["mount", "--bind", str(out), str(out)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(out)], check=True)
    try:
        for name, arguments in commands.items():
            (place / "output.txt").unlink(missing_ok=True)
            code = started(arguments, None, place / "output.txt", "disk")
            said = (place / "output.txt").read_text()
            rows.append({"lacking": "permission", "option": f"{name}, ro", "wrong": _wrong(name, code, said)})
    finally:
        subprocess.run(["umount", str(out)], check=True)
    # The modes of files stop root too, once it lacks the capability to override them.
    subprocess.run(["chmod", "-R", "a-w", str(out)], check=True)
    for name in ("report", "advise"):
        command = ["setpriv", "--bounding-set=-dac_override", sys.executable, "-m", "graceful_forgetting.cli"]
        done = subprocess.run([*command, *commands[name]], capture_output=True, text=True)
        wrong = _wrong(name, done.returncode, done.stdout + done.stderr)
        rows.append({"lacking": "permission", "option": f"{name}, modes", "wrong": wrong})
    subprocess.run(["chmod", "-R", "u+w", str(out)], check=True)
    return rows


def _wrong(name: str, code: int, said: str) -> list[str]:
    # Only advice needs a stage that a finished run has not, and makes it elsewhere.
    made = said.count(": running") > (name == "advise")
    return [f"exit code {code}: {said[-2000:]}"] if code != 0 or "Traceback" in said or made else []


def run_disk() -> list[dict[str, Any]]:
    """A row for each disk and each command, with what is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
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
