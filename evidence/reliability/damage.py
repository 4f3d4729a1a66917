"""Damages each file of a run in each way, runs again, and compares with a run that was not damaged.

    python -m evidence.reliability.damage                every file; what is archived already is skipped: hours
    python -m evidence.reliability.damage --sample 8     some files of each run, nothing archived: for CI

The run is finished, or was killed in training or in scoring, or is a sweep. What must not happen: another result than
that of the whole run (`wrong`), a damaged file that stays (`kept`), a traceback, an error, or a second call that does
not find everything finished (`twice`). A damaged file that decides something is named (`named`); others are written
again by every call. Where a shared stage of a sweep is damaged, the results of its cells are removed as well.
"""

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evidence.reliability.figures import ARCHIVES, save
from evidence.reliability.kill import started
from evidence.reliability.leftovers import differences, snapshot
from evidence.reliability.tiny import write_inputs
from graceful_forgetting.confidence import shards
from graceful_forgetting.posterior import reference

ARCHIVE = ARCHIVES / "damage.jsonl"
KINDS = ("half", "zero", "empty", "gone", "one bit", "swapped")
# State -> after how many calls of which function the run that leaves it is killed; none: it ends.
STATES: dict[str, tuple[Any, str, int] | None] = {
    "finished": None,
    "sweep": None,
    "in training": (reference, "seal_checkpoint", 5),
    "in scoring": (shards, "_save", 1),
}
WRONG = ("wrong", "kept", "traceback", "error", "twice")


@dataclass(frozen=True)
class Damage:
    """One file of a run in a state, and what is done to it."""

    state: str
    file: str
    kind: str


def damaged(file: Path, kind: str, other: Path) -> bool:
    """Damage a file; whether that changed it. `other`: the file that it changes places with."""
    content = file.read_bytes()
    if kind == "gone":
        file.unlink()
        return True
    if kind == "swapped":
        new = other.read_bytes()
        other.write_bytes(content)
    elif kind == "one bit":
        changed = bytearray(content)
        if changed:
            changed[len(changed) // 2] ^= 1
        new = bytes(changed)
    else:
        new = {"half": content[: len(content) // 2], "zero": bytes(len(content)), "empty": b""}[kind]
    file.write_bytes(new)
    return new != content


def make_state(state: str, arguments: list[str], out: Path, folder: Path) -> None:
    """Run until the state is reached, and put what is there into `folder`."""
    shutil.rmtree(out, ignore_errors=True)
    stop = STATES[state]
    if stop is None:
        code = started(arguments, None, folder.with_suffix(".txt"), state)
    else:
        code = _stopped(arguments, *stop, folder.with_suffix(".txt"))
    if code != (0 if stop is None else 9):
        raise RuntimeError(f"{state}: exit code {code}: {folder.with_suffix('.txt').read_text()[-2000:]}")
    shutil.copytree(out, folder)


def _stopped(arguments: list[str], module: Any, name: str, calls: int, output: Path) -> int:
    """Run a command in a fork that dies, as if killed, after so many calls of a function; 9."""
    call: Callable[..., Any] = getattr(module, name)
    left = calls

    def call_and_die(*positional: Any) -> None:
        nonlocal left
        call(*positional)
        left -= 1
        if left == 0:
            os._exit(9)

    setattr(module, name, call_and_die)
    try:
        return started(arguments, None, output, "stopped")
    finally:
        setattr(module, name, call)


def strike(case: Damage, arguments: list[str], out: Path, states: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Do the damage, run twice, and say what became of it."""
    shutil.rmtree(out)
    shutil.copytree(states / case.state, out)
    file, output = out / case.file, out.with_suffix(".txt")
    others = [path for path in _files(out) if path != file and path.stat().st_size > 0]
    alike = [path for path in others if path.suffix == file.suffix] or others
    other = alike[sorted([*alike, file]).index(file) % len(alike)]
    row: dict[str, Any] = {**vars(case), "changed": damaged(file, case.kind, other)}
    if not row["changed"]:
        return row
    struck = [file, other] if case.kind == "swapped" else [file]
    if case.state == "sweep" and any(path.is_relative_to(out / "shared") for path in struck):
        # A finished cell stands on its result and reads no shared stage: they are put together again.
        for result in out.glob("cells/**/result.json"):
            result.unlink()
    before = file.read_bytes() if file.is_file() else None
    output.unlink(missing_ok=True)
    code = started(arguments, None, output, "damage")
    said = output.read_text(errors="replace")
    found = differences(expected, snapshot(out)) if code == 0 else []
    after = file.read_bytes() if file.is_file() else None
    row["named"] = any(text in said for text in ("again, since", "passed over, since"))
    row["traceback"] = "Traceback" in said
    row["error"] = code != 0
    row["wrong"] = found
    # What a lock holds is not read, so that nothing becomes of it.
    row["kept"] = after is not None and after == before and not file.name.endswith(".lock")
    output.unlink()
    code = started(arguments, None, output, "damage")
    again = output.read_text(errors="replace")
    row["twice"] = code != 0 or any(text in again for text in (": running", " since ", "[1/"))
    if any(row[name] for name in WRONG):
        row["said"] = said[-3000:] + again[-1000:]
    return row


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def archived() -> list[dict[str, Any]]:
    """Every damage that was done."""
    return [json.loads(line) for line in ARCHIVE.read_text().splitlines()] if ARCHIVE.is_file() else []


def _kept(case: Damage) -> Damage:
    """The case as it is known again: keys hang on the folder of the run, which is another one at each call."""
    return replace(case, file=re.sub("[0-9a-f]{32}", "key", case.file))


def run_damage(sample: int | None = None, states: tuple[str, ...] = tuple(STATES)) -> Iterator[dict[str, Any]]:
    """Every damage that is not archived, or of each state so many that are drawn; a row each, see `figures`."""
    known = set() if sample else {_kept(Damage(*(row[name] for name in Damage.__annotations__))) for row in archived()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        out = folder / "out"
        recipe, grid = write_inputs(folder / "inputs", out)
        (folder / "states").mkdir()
        for state in states:
            arguments = ["sweep", "--config", str(grid)] if state == "sweep" else ["run", "--config", str(recipe)]
            whole = folder / "states" / f"whole of {state}"
            make_state("finished", arguments, out, whole)
            expected = snapshot(whole)
            make_state(state, arguments, out, folder / "states" / state)
            files = [path.relative_to(folder / "states" / state) for path in _files(folder / "states" / state)]
            cases = [Damage(state, str(path), kind) for path in files for kind in KINDS]
            # What is done before the end of a call is spread over all.
            random.Random(state).shuffle(cases)
            for case in cases[:sample]:
                if _kept(case) in known:
                    continue
                yield strike(case, arguments, out, folder / "states", expected)


def figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows come to: by state the number of files, of damages and of each way in which one went wrong."""
    found: dict[str, Any] = {}
    for state in dict.fromkeys(row["state"] for row in rows):
        own = [row for row in rows if row["state"] == state and row.get("changed")]
        counts = Counter(name for row in own for name in (*WRONG, "named") if row.get(name))
        found[state] = {
            "files": len({_kept(Damage(state, row["file"], "")) for row in own}),
            "damages": len(own),
            **{name: counts[name] for name in (*WRONG, "named")},
        }
    return {"states": found, "kinds": list(KINDS), "failed": [row for row in rows if any(row.get(n) for n in WRONG)]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, help="so many damages of each state, and nothing is archived")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so many; the next call goes on")
    parser.add_argument("--states", nargs="+", default=list(STATES), choices=list(STATES))
    options = parser.parse_args()
    rows, end = [] if options.sample else archived(), time.monotonic() + options.seconds
    for row in run_damage(options.sample, tuple(options.states)):
        rows.append(row)
        if options.sample is None:
            with ARCHIVE.open("a", encoding="utf-8") as file:
                file.write(json.dumps({name: value for name, value in row.items() if value}) + "\n")
        wrong = [name for name in WRONG if row.get(name)]
        print(f"{row['state']}, {row['file']}, {row['kind']}: {', '.join(wrong) or 'right'}", flush=True)
        for text in [row["wrong"], row["said"]] if wrong else []:
            print(f"    {text}", flush=True)
        if time.monotonic() > end:
            break
    found = figures(rows)
    print(found["states"])
    if options.sample is None:
        save("damage", found)
    return int(bool(found["failed"]))


if __name__ == "__main__":
    sys.exit(main())
