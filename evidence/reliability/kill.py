"""Kills runs at every kind of place, starts them again, and compares what they leave with a run that was not killed.

    python -m evidence.reliability.kill                  all points; what is archived already is skipped
    python -m evidence.reliability.kill --sample 6       some points of a run, nothing archived: for CI

A point is a command, a process of it, the number of a change that this process makes to the output folder (a file
opened for writing, a rename, a removal, an update of the optimizer), a signal, and who receives it. Commands are run in
forks of this process, which has imported what takes long.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
from datasets.utils.logging import disable_progress_bar

from evidence.reliability.figures import ARCHIVES
from evidence.reliability.hook import sitecustomize as hook
from evidence.reliability.leftovers import differences, snapshot
from evidence.reliability.tiny import write_inputs

# Imported before any command is forked.
from graceful_forgetting import report, training  # noqa: F401
from graceful_forgetting.cli import main as graceful
from graceful_forgetting.runs import pipeline  # noqa: F401
from graceful_forgetting.sweeps import run as sweeps_run  # noqa: F401

ARCHIVE = ARCHIVES / "kill.jsonl"
HOOK = Path(hook.__file__).parent
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
CODES = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "SIGINT": 130}
# Seconds after its first process within which every process of a run has to end.
PATIENCE = 15


@dataclass(frozen=True)
class Point:
    """Where a run is killed; see the module."""

    command: str
    role: str
    at: int
    signal: str
    target: str


@dataclass(frozen=True)
class Command:
    """A command whose output is compared: its arguments, the processes that are killed, and how many points each."""

    name: str
    arguments: list[str]
    roles: tuple[tuple[str, str, int], ...]


def commands(folder: Path) -> list[Command]:
    """What is killed, with inputs in `folder`; output goes to `folder/out`."""
    recipe, grid = write_inputs(folder, folder / "out")
    run = ["run", "--config", str(recipe), "--quiet"]
    sweep = ["sweep", "--config", str(grid), "--jobs", "2", "--quiet"]
    pair = [*run, "--accelerate_config", "ddp", "--num_processes", "2"]
    return [
        Command("run", run, (("main", "self", 84), ("main", "all", 18))),
        Command("sweep", sweep, (("worker-1", "self", 6), ("worker-1", "parent", 6), ("worker-1", "all", 6))),
        Command(
            "pair", pair, (("rank-0", "self", 3), ("rank-1", "self", 3), ("rank-0", "parent", 3), ("rank-0", "all", 3))
        ),
    ]


def started(arguments: list[str], plan: dict[str, Any] | None, output: Path, tag: str) -> int:
    """Run a command in a fork; its exit code, negative for a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # The life of the fork; what goes wrong must not reach the code of its parent.
    code = 70
    try:
        os.setsid()
        with output.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["KILL_TAG"] = tag
        if plan is not None:
            os.environ["KILL_PLAN"] = json.dumps(plan)
            os.environ["PYTHONPATH"] = f"{HOOK}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
            hook.install(plan)
        code = graceful(arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def orphans(tag: str) -> list[int]:
    """Processes of a run that live on after `PATIENCE` seconds; they are killed."""
    end = time.monotonic() + PATIENCE
    while (alive := list(_alive(tag))) and time.monotonic() < end:
        time.sleep(0.1)
    for process in alive:
        process.kill()
    return [process.pid for process in alive]


def _alive(tag: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("KILL_TAG") == tag:
                yield process
        except psutil.Error:
            continue


def strike(command: Command, point: Point, folder: Path, expected: dict[str, Any]) -> dict[str, Any] | None:
    """Kill the command at a point, start it again, and say what is wrong; nothing is right.

    None where it was not reached: cells go to whichever worker is free, so that one may do less than in another run.
    """
    struck = folder / "struck"
    struck.unlink(missing_ok=True)
    output, tag = folder / "output.txt", f"{os.getpid()}-{time.monotonic_ns()}"
    shutil.rmtree(folder / "out", ignore_errors=True)
    output.unlink(missing_ok=True)
    plan = {"root": str(folder / "out"), "log": None, "struck": str(struck), **asdict(point)}
    code = started(command.arguments, plan, output, tag)
    if not struck.exists():
        return None
    wrong = []
    if point.target != "self" or point.role == "main":
        if code != CODES[point.signal]:
            wrong.append(f"exit code {code}")
        if point.signal == "SIGTERM" and "SIGTERM" not in output.read_text() and "Terminated" not in output.read_text():
            wrong.append("the end is not said")
    if left := orphans(tag):
        wrong.append(f"{len(left)} processes lived on")
    code = started(command.arguments, None, output, tag)
    if code != 0:
        wrong.append(f"exit code {code} at the restart")
    if "Traceback" in output.read_text():
        wrong.append("traceback")
    wrong += differences(expected, snapshot(folder / "out"))
    if wrong:
        wrong.append(f"said: {output.read_text()[-1500:]}")
    return {**asdict(point), "wrong": wrong}


def measured(command: Command, role: str, folder: Path) -> tuple[int, dict[str, Any]]:
    """How many changes a process makes in a whole run, and what the run leaves."""
    log = folder / "changes.txt"
    log.unlink(missing_ok=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    plan = {"root": str(folder / "out"), "role": role, "at": 0, "signal": "SIGKILL", "target": "self", "log": str(log)}
    code = started(command.arguments, plan, folder / "output.txt", "whole")
    if code != 0:
        raise RuntimeError(f"{command.name} ended with {code}: {(folder / 'output.txt').read_text()[-2000:]}")
    return len(log.read_text().splitlines()), snapshot(folder / "out")


def points(command: Command, role: str, target: str, count: int, changes: int) -> list[Point]:
    """`count` points spread over the changes of a process, the signals in turn."""
    # Not always at the same places of every third change: the signals take turns from a start that is drawn.
    dice = random.Random(f"{command.name} {role} {target}")
    places = sorted(dice.sample(range(1, changes + 1), min(count, changes)))
    return [Point(command.name, role, at, SIGNALS[number % 3], target) for number, at in enumerate(places)]


def archived() -> list[dict[str, Any]]:
    """Every point that was tried."""
    return [json.loads(line) for line in ARCHIVE.read_text().splitlines()] if ARCHIVE.is_file() else []


def run_kill(names: list[str], sample: int | None = None) -> Iterator[dict[str, Any]]:
    """Try the points of these commands that the archive lacks; with `sample`, so many of each process, known or not."""
    known = Counter() if sample else Counter((row["command"], row["role"], row["target"]) for row in archived())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for command in commands(folder):
            for role, target, count in command.roles:
                lacking = (sample or count) - known[command.name, role, target]
                if command.name not in names or lacking <= 0:
                    continue
                changes, expected = measured(command, role, folder)
                for point in points(command, role, target, sample or count, changes)[-lacking:]:
                    yield reached(command, point, folder, expected)


def reached(command: Command, point: Point, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """What `strike` says of the point, or of the first at a half, a quarter, ... of its changes that is reached."""
    while (row := strike(command, point, folder, expected)) is None:
        if point.at == 1:
            raise RuntimeError(f"{point} is not reached: {point.role} of {command.name} makes no change")
        point = replace(point, at=point.at // 2)
    return row


def figures() -> dict[str, Any] | None:
    """What the archived points come to; none where there are none."""
    rows = archived()
    if not rows:
        return None
    return {
        "points": len(rows),
        "by_command": dict(Counter(row["command"] for row in rows)),
        "by_signal": dict(Counter(row["signal"] for row in rows)),
        "wrong": [row for row in rows if row["wrong"]],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="so many points of each process, and nothing is archived")
    parser.add_argument("--commands", nargs="+", default=["run", "sweep", "pair"])
    options = parser.parse_args()
    disable_progress_bar()
    failed = 0
    for row in run_kill(options.commands, options.sample):
        failed += bool(row["wrong"])
        print({**row, "wrong": row["wrong"] or "nothing"}, flush=True)
        if options.sample is None:
            with ARCHIVE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
