"""Files that nobody meant: every reader refuses them with an error of ours, within a second and 200 MB.

    python -m evidence.reliability.fuzz --count 20000        each kind of file; figures of these kinds are archived
    python -m evidence.reliability.fuzz --count 200 --no-archive       for CI
    python -m evidence.reliability.fuzz --atheris recipe --seconds 300    guided by coverage, where atheris is installed

Kinds: recipe, grid, JSON Lines, a task in YAML, a result file. Hypothesis draws valid files with parts replaced by
anything, and files of any text.
"""

import argparse
import copy
import inspect
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from datasets.utils.logging import disable_progress_bar
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import graceful_forgetting
from evidence.reliability.figures import load, save
from graceful_forgetting.report import render_report
from graceful_forgetting.results.provenance import peak_memory, reset_peak_memory
from graceful_forgetting.results.result import RunResult
from graceful_forgetting.runs.recipe import parse_recipe, recipe_fields
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.grid_file import load_grid
from graceful_forgetting.tasks import load_task

PACKAGE = str(Path(graceful_forgetting.__file__).parent)
ARCHIVES = Path(__file__).parents[1] / "archives"
# Seconds of processor time, and bytes, that an input may take.
SECONDS, BYTES = 1.0, 200 * 2**20
# Seconds between archives of what atheris has tried.
ARCHIVED_EVERY = 5.0
# Modules that atheris follows.
READERS = (
    *("config.values", "runs.recipe", "runtime.yaml_file", "sweeps.grid_file", "results.result", "results.schema"),
    *("tasks.file_task", "tasks.jsonl", "tasks.local", "tasks.templates"),
)
# What a reader may raise: of ours, or of a library that says which setting of its own is wrong.
REFUSALS = (ValueError, FileNotFoundError)

_ODD_TEXTS = (
    *(
        "",
        " ",
        "nan",
        "1e400",
        "-1",
        "true",
        "null",
        "2026-01-01",
        "~",
        "0x10",
        "1_000",
        "é" * 40,
        "x" * 5000,
        "\u202e",
    ),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "C:\\x",
        "a/b",
        "http://u:p@h/",
        "{{",
        "{% for i in range(9) %}",
        "&a [*a]",
        "\x00",
    ),
    *(
        "{{ 'a' * 99999999 }}",
        "{{ range(99999999) | list }}",
        "{{ ''.__class__.__mro__ }}",
        "(a+)+$",
        "(?R)",
        "[",
        "\\",
    ),
)
_TEXTS = st.one_of(st.sampled_from(_ODD_TEXTS), st.text(max_size=20))
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from((10**30, -(10**30), 10**400, 2**63, 0, 1)),
    st.floats(),
    _TEXTS,
    st.dates(),
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4), max_leaves=8
)


class SlowError(Exception):
    """An input took more processor time than it may."""


@dataclass
class Kind:
    """A kind of file: what is written, what reads it, its name, and one that nothing is wrong with."""

    name: str
    content: st.SearchStrategy[bytes]
    read: Callable[[Path], object]
    file: str
    whole: bytes = b""


@dataclass
class Found:
    """What became of the inputs of a kind: numbers, and failures by what they are."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: float = 0.0
    largest: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "inputs": self.inputs,
            "accepted": self.accepted,
            "refused": self.refused,
            "slowest_seconds": round(self.slowest, 2),
            "largest_megabytes": round(self.largest / 2**20),
            "failures": dict(self.failures),
        }


# Files ---------------------------------------------------------------------------------------------------------------


def _yaml(value: Any) -> bytes:
    try:
        return yaml.safe_dump(value, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")
    except ValueError:
        # A whole number of more digits than Python writes.
        return b"a: 1" + b"0" * 5000


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, default=str).encode()
    except ValueError:
        return b"[1" + b"0" * 5000 + b"]"


def _changed(base: dict[str, Any], names: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """`base` with keys set to anything, and some of its own left out."""
    changes = st.dictionaries(names, _VALUES, max_size=3)
    gone = st.sets(st.sampled_from(sorted(base)), max_size=1)
    return st.builds(
        lambda new, missing: {**{name: value for name, value in base.items() if name not in missing}, **new},
        changes,
        gone,
    )


def _deeply_changed(base: Any) -> st.SearchStrategy[Any]:
    """`base` with up to three places, at any depth, replaced or removed."""

    @st.composite
    def change(draw: Any) -> Any:
        content = copy.deepcopy(base)
        for _ in range(draw(st.integers(1, 3))):
            place = content
            while True:
                keys = list(place) if isinstance(place, dict) else list(range(len(place)))
                if not keys:
                    break
                key = draw(st.sampled_from(keys))
                if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 9)) > 0:
                    place = place[key]
                    continue
                if draw(st.integers(0, 4)) == 0:
                    del place[key]
                else:
                    place[key] = draw(_alike(place[key]) | _VALUES)
                break
        return content

    return change()


def _alike(value: Any) -> st.SearchStrategy[Any]:
    """Other values of the same type."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return st.integers() | st.floats() | st.integers(-2, 3)
    return _TEXTS if isinstance(value, str) else st.just(value)


def _damaged(content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The file as it is, cut, with bytes put in, or replaced by any bytes or text."""
    cut = st.builds(lambda data, share: data[: int(len(data) * share)], content, st.floats(0, 1))
    inserted = st.builds(
        lambda data, share, new: data[: int(len(data) * share)] + new + data[int(len(data) * share) :],
        content,
        st.floats(0, 1),
        st.binary(max_size=8),
    )
    return st.one_of(content, content, content, cut, inserted, st.binary(max_size=60), _TEXTS.map(_encoded))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_RECIPE = {"world": "shortcut", "output_dir": "out", "max_steps": 10}
_GRID = {
    "worlds": ["shortcut"],
    "base": {"max_steps": 10},
    "methods": {"plain": {"arm": "plain"}, "lwf": {}},
    "seeds": [0, 1],
    "validation_seeds": [7],
    "tune": {"lwf": {"unlearn_every": [1, 2]}},
    "settings": {"one": {"learning_rate": 1e-3}},
    "evaluate_every": 10,
    "curve_rows": 8,
    "keep_models": False,
    "output_dir": "out",
    "name": "a",
}
_TASK = {
    "name": "capitals",
    "data": "rows.jsonl",
    "columns": ["country", "capital", "others"],
    "prompt": "The capital of {{ country }} is",
    "completion": " {{ capital }}",
    "parse": "first_line",
    "metric": "exact_match",
}
_CHOICE = {
    **{name: value for name, value in _TASK.items() if name not in ("completion", "parse", "metric")},
    "choices": "{{ others }}",
    "correct": "{{ capital }}",
}
_TASK_ROW = {"country": "France", "capital": "Paris", "others": ["Paris", "Rome"]}
_ROWS = (
    {"prompt": "a", "completion": " b"},
    {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"prompt": "a", "completion": " b", "choices": [" a", " b"]},
    {"prompt": "a", "completion": " b", "forgetting_confidence": 1.5},
)


@cache
def _result() -> dict[str, Any]:
    """A result of one seed, with few entries of each long list."""

    def shortened(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shortened(item) for name, item in value.items()}
        return [shortened(item) for item in value[:3]] if isinstance(value, list) else value

    content: dict[str, Any] = json.loads((ARCHIVES / "demo.json").read_text(encoding="utf-8"))
    return {**shortened(content), "runs": shortened(content["runs"])}


def kinds() -> list[Kind]:
    """Every kind of file."""
    fields = st.one_of(st.sampled_from(sorted(recipe_fields() - {"output_dir"})), _TEXTS)
    recipes = _changed(_RECIPE, fields).map(_yaml)
    keys = st.one_of(st.sampled_from(sorted(_GRID)), _TEXTS)
    task_keys = st.sampled_from([*_TASK, "choices", "correct", "answer", "hub", "id_column", "language", "licence"])
    row = st.one_of(*(_deeply_changed(each) for each in _ROWS), _VALUES).map(_json)
    rows = st.lists(row, min_size=1, max_size=4).map(b"\n".join)
    task = st.one_of(_changed(_TASK, task_keys), _changed(_CHOICE, task_keys), _deeply_changed(_CHOICE)).map(_yaml)
    grids = st.one_of(_changed(_GRID, keys), _deeply_changed(_GRID)).map(_yaml)
    return [
        Kind("recipe", _damaged(recipes), _read_recipe, "recipe.yaml", _yaml(_RECIPE)),
        Kind("grid", _damaged(grids), _read_grid, "grid.yaml", _yaml(_GRID)),
        Kind("rows", _damaged(rows), _read_rows, "rows.jsonl", _json(_ROWS[0])),
        Kind("task", _damaged(task), _read_task, "task.yaml", _yaml(_TASK)),
        Kind("result", _damaged(_deeply_changed(_result()).map(_json)), _read_result, "result.json", _json(_result())),
    ]


# Readers -------------------------------------------------------------------------------------------------------------


def _read_recipe(path: Path) -> object:
    kept = dict(os.environ)
    try:
        return parse_recipe(str(path), [])
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _read_grid(path: Path) -> object:
    return load_grid(str(path)).cells({})


def _read_rows(path: Path) -> object:
    return load_task(str(path), require_completion=False)


def _read_task(path: Path) -> object:
    (path.parent / "rows.jsonl").write_text(json.dumps(_TASK_ROW) + "\n", encoding="utf-8")
    return load_task(str(path))


def _read_result(path: Path) -> object:
    with _expected(ValueError):
        CellResult.load(path)
    return render_report(RunResult.load(path), None, path.with_suffix(".html"))


@contextmanager
def _expected(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kind as error:
        if not _of_ours(error):
            raise


def _of_ours(error: Exception) -> bool:
    """Whether the error was made here, or by a library whose message a user of its settings understands."""
    if type(error) not in REFUSALS or not str(error).strip():
        return False
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return last.startswith(PACKAGE) or "/transformers/training_args.py" in last or "/trl/" in last


# Trying --------------------------------------------------------------------------------------------------------------


@contextmanager
def _limits() -> Iterator[None]:
    """More than `SECONDS` of processor time, or a GB more than there is now, is an exception."""

    def late(number: int, frame: object) -> None:
        del number, frame
        raise SlowError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGVTALRM, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(kind: Kind, data: bytes, folder: Path, found: Found) -> None:
    """Read one file, and count what came of it."""
    path = folder / kind.file
    path.write_bytes(data)
    reset_peak_memory()
    before, start = peak_memory().process_bytes, time.process_time()
    problem, said = None, ""
    try:
        with _limits():
            kind.read(path)
        found.accepted += 1
    except Exception as error:
        if _of_ours(error):
            found.refused += 1
        else:
            place, said = traceback.extract_tb(error.__traceback__)[-1], str(error)[:200]
            problem = f"{type(error).__name__} ({Path(place.filename).name}:{place.lineno})"
    took, grown = time.process_time() - start, peak_memory().process_bytes - before
    if problem is None and took > SECONDS:
        # An alarm in a callback of the garbage collector is lost.
        problem = f"SlowError: {took:.1f} s"
    if problem is None and grown > BYTES:
        problem = f"took {grown / 2**20:.0f} MB"
    found.inputs += 1
    found.slowest = max(found.slowest, took)
    found.largest = max(found.largest, grown)
    if problem is not None:
        found.failures[problem] += 1
        found.examples.setdefault(problem, f"{said} {data[:400]!r}")


def fuzz(kind: Kind, count: int, number: int = 0) -> Found:
    """Try `count` files of a kind."""
    found = Found()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The first of a kind fills caches that last.
        (folder / kind.file).write_bytes(kind.whole)
        kind.read(folder / kind.file)

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(kind.content)
        def run(data: bytes) -> None:
            attempt(kind, data, folder, found)

        run()
    return found


def run_fuzz(count: int, names: list[str] | None = None) -> dict[str, Any]:
    """Try `count` files of every kind; figures ready for JSON."""
    figures: dict[str, Any] = {"seconds_allowed": SECONDS, "megabytes_allowed": BYTES // 2**20, "kinds": {}}
    for kind in kinds():
        if names is not None and kind.name not in names:
            continue
        found = fuzz(kind, count)
        figures["kinds"][kind.name] = found.figures()
        print(f"{kind.name}: {figures['kinds'][kind.name]}", flush=True)
        for problem, example in found.examples.items():
            print(f"  {problem}\n    {example}", flush=True)
    return figures


def run_atheris(name: str, seconds: int) -> None:
    """Fuzz one kind guided by coverage; its figures are archived as it goes, since libFuzzer ends the process."""
    try:
        import atheris
    except ImportError:
        print("NOT RUN: atheris is not installed (pip install atheris)", file=sys.stderr)
        return
    (kind,) = [each for each in kinds() if each.name == name]
    found, archived = Found(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:

        @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(kind.content)
        def run(data: bytes) -> None:
            nonlocal archived
            attempt(kind, data, Path(folder), found)
            if found.failures or time.monotonic() - archived > ARCHIVED_EVERY:
                archived = time.monotonic()
                _archive("fuzz-atheris", {"kinds": {name: found.figures()}})
            assert not found.failures, found.examples

        # What reads: all that is imported would take minutes.
        for module in (sys.modules[f"graceful_forgetting.{each}"] for each in READERS):
            for function in vars(module).values():
                if inspect.isfunction(function) and function.__module__ == module.__name__:
                    atheris.instrument_func(function)
        arguments = [sys.argv[0], f"-max_total_time={seconds}", f"-artifact_prefix={folder}/"]
        atheris.Setup(arguments, run.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]
        atheris.Fuzz()


def _archive(name: str, figures: dict[str, Any]) -> None:
    """Save the figures of some kinds beside those of the others."""
    known = load(name) or figures
    save(name, {**figures, "kinds": {**known["kinds"], **figures["kinds"]}})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--kinds", nargs="+")
    parser.add_argument("--no-archive", action="store_true")
    parser.add_argument("--atheris", metavar="KIND", choices=[kind.name for kind in kinds()])
    parser.add_argument("--seconds", type=int, default=300, help="how long atheris goes on")
    options = parser.parse_args()
    disable_progress_bar()
    if options.atheris:
        run_atheris(options.atheris, options.seconds)
        return 0
    figures = run_fuzz(options.count, options.kinds)
    if not options.no_archive:
        _archive("fuzz", figures)
    return int(any(kind["failures"] for kind in figures["kinds"].values()))


if __name__ == "__main__":
    sys.exit(main())
