"""Writes docs/reliability.md from the figures in `archives/`.

python -m evidence.reliability.page            exit 1 where something was lost, or has not been tried
python -m evidence.reliability.page --check    writes nothing; exit 1 where the page is out of date
"""

import json
import sys
from pathlib import Path
from typing import Any

from evidence.reliability import draws, kill
from evidence.reliability.figures import load
from evidence.tables.pages import update

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_INTRODUCTION = """# What a run promises

A run that is killed, damaged or fed with nonsense costs time and nothing else. This page lists each promise, its test,
and what was lost. `make reliability` makes it from the figures in `evidence/reliability/`. CI runs a small sample of
each harness (`make reliability-sample`).
"""
_RULES = """
## What happens when a run is stopped

| signal | what a run does | exit code |
|---|---|---|
| SIGINT (Ctrl-C) | ends at once; finished stages and checkpoints stay | 130 |
| SIGTERM | in training: saves a checkpoint after the update, says so, ends; elsewhere it ends at once | 143 |
| SIGKILL, a power cut | nothing; the next call starts from the last checkpoint | −9 |

The same command continues. Its weights, rows and measures are those of a run that was not stopped. Of the log, the
averages that were under way begin anew. The processes of a sweep or a launch end within a second of the process that
started them, whatever ended it. A launch of several processes has 30 seconds for the checkpoint, which is torchrun's
limit.

Plain fine-tuning that diverges is an error (exit code 1) in place of a table of zeros. It has diverged when its
smoothed loss is above three times that of guessing, or when it ends no better than guessing and worse than it began. No
checkpoint is saved of it, so that none is continued.
"""

MEMORY = Path(__file__).parents[1] / "speed" / "memory-estimates.json"
# How far announced memory may be from what is taken, as a share of it.
_NEAR = 0.2
_MEMORY = """## Memory that is announced

A stage that runs out of memory goes on with half of the batch, and gives the same result. Before it starts, it
announces what it needs. Announced over measured, for Llamas of 7 to 135 M parameters on the CPU
(`memory_estimates.py`):
"""


def _row(promise: str, test: str, tried: str, lost: str) -> str:
    return f"| {promise} | {test} | {tried} | {lost} |"


def _killed(found: dict[str, Any] | None) -> str:
    promise = "Killed anywhere, a run continues to the same end: no litter, no traceback, no process left"
    if found is None:
        return _row(promise, "`kill.py`", "not run", "–")
    commands = {"run": "a run", "sweep": "a sweep of two workers", "pair": "two gloo processes"}
    where = ", ".join(f"{count} of {commands[name]}" for name, count in found["by_command"].items())
    signals = ", ".join(f"{count} {name}" for name, count in found["by_signal"].items())
    tried = f"{found['points']} points: {where}; {signals}"
    return _row(promise, "`kill.py`", tried, _lost(len(found["wrong"]), "points"))


def _damaged(found: dict[str, Any] | None) -> str:
    promise = "A damaged file is named and made again, and never serves"
    if found is None:
        return _row(promise, "`damage.py`", "not run", "–")
    states = "; ".join(
        f"{state}: {row['files']} files, {row['damages']} damages" for state, row in found["states"].items()
    )
    tried = f"{states} ({', '.join(found['kinds'])})"
    return _row(promise, "`damage.py`", tried, _lost(len(found["failed"]), "damages"))


def _on_small_disks(found: dict[str, Any] | None) -> str:
    promise = "A disk that is full, out of inodes or read-only is one message, and what is finished stays and serves"
    if found is None:
        return _row(promise, "`disk.py`", "not run", "–")
    lacking = [row["lacking"] for row in found["rows"]]
    tried = (
        f"{lacking.count('space')} sizes, {lacking.count('inodes')} numbers of inodes, "
        f"{lacking.count('permission')} commands on a read-only run"
    )
    return _row(promise, "`disk.py`", tried, _lost(len(found["failed"]), "runs"))


def _fuzzed(found: dict[str, Any] | None, guided: dict[str, Any] | None) -> str:
    promise = "A file that nobody meant is refused by name, within a second and 200 MB"
    if found is None:
        return _row(promise, "`fuzz.py`", "not run", "–")
    tried = f"inputs: {_inputs(found)}"
    failures = _failures(found)
    if guided is not None:
        tried += f"; guided by coverage, with atheris: {_inputs(guided)}"
        failures += _failures(guided)
    return _row(promise, "`fuzz.py`", tried, _lost(failures, "inputs"))


def _inputs(found: dict[str, Any]) -> str:
    return ", ".join(f"{row['inputs']:,} of {name}" for name, row in found["kinds"].items())


def _failures(found: dict[str, Any]) -> int:
    return sum(sum(row["failures"].values()) for row in found["kinds"].values())


def _drawn(found: dict[str, Any] | None) -> str:
    promise = "With the defaults, no run falls below 90 % of plain fine-tuning"
    if found is None:
        return _row(promise, "`draws.py`", "not run", "–")
    tried = (
        f"{found['draws']} draws of world, difficulty and seeds; lowest {found['least_of_plain']:.0%} of plain, "
        f"{found['fell_back']} fell back on it, mean gain {100 * found['mean_gain']:.1f} points"
    )
    return _row(promise, "`draws.py`", tried, _lost(len(found["below"]), "runs"))


def _lost(count: int, what: str) -> str:
    return "nothing" if count == 0 else f"**{count} {what}**"


def page() -> str:
    """The page."""
    disks = _on_small_disks(load("disk"))
    rows = [
        _killed(kill.figures()),
        _damaged(load("damage")),
        disks,
        _fuzzed(load("fuzz"), load("fuzz-atheris")),
        _drawn(draws.figures()),
    ]
    table = "\n".join(["| promise | test | tried | lost |", "|---|---|---|---|", *rows])
    return f"{_INTRODUCTION}\n{table}\n{_RULES}\n{_memory_table()}\n{_kill_table(kill.figures())}"


def _memory_table() -> str:
    found = json.loads(MEMORY.read_text(encoding="utf-8"))["results"]
    stages = dict.fromkeys(row["stage"] for row in found)
    ratios = {stage: [row["ratio"] for row in found if row["stage"] == stage] for stage in stages}
    rows = [
        f"| {stage} | {len(own)} | {sum(abs(ratio - 1) <= _NEAR for ratio in own)} | {min(own):.2f} | {max(own):.2f} |"
        for stage, own in ratios.items()
    ]
    return "\n".join(
        [_MEMORY, "| work | batches | within 20 % | lowest | highest |", "|---|---|---|---|---|", *rows, ""]
    )


def _kill_table(found: dict[str, Any] | None) -> str:
    if found is None or not found["wrong"]:
        return "## What was lost\n\nNothing.\n"
    rows = []
    for row in found["wrong"]:
        cells = [*(str(row[name]) for name in kill.Point.__annotations__), "; ".join(row["wrong"][:3])]
        rows.append(f"| {' | '.join(cells)} |")
    head = ["| command | process | change | signal | sent to | wrong |", "|---|---|---|---|---|---|"]
    return "\n".join(["## What was lost\n", *head, *rows]) + "\n"


def main() -> int:
    text, check = page(), "--check" in sys.argv
    stale = update({PAGE: text}, check)
    return stale if check else int("not run" in text or "**" in text)


if __name__ == "__main__":
    sys.exit(main())
