"""The rooms of the package: each imports only from rooms below it, and the laboratory stays outside."""

import ast
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "graceful_forgetting"
# The tree of docs/layout.md says which rooms there are, and its script reads their imports.
LAYOUT = runpy.run_path(str(ROOT / "docs" / "make_layout.py"))
# From the ground up; a room may import those before it.
ROOMS: tuple[str, ...] = tuple(LAYOUT["ROOMS"])
FILES: list[Path] = LAYOUT["FILES"]
room_of, imported, rooms_imported = (LAYOUT[name] for name in ("room_of", "imported", "rooms_imported"))


def test_every_room_is_known() -> None:
    found = {room_of(path) for path in FILES}
    assert found == set(ROOMS)


def test_the_tree_of_the_page_holds_the_whole_house() -> None:
    assert len(ROOMS) > 15
    assert ROOMS[-1] == "cli"


def test_the_picture_shows_the_imports_as_they_are() -> None:
    assert LAYOUT["PICTURE"].read_text(encoding="utf-8") == LAYOUT["picture"](), "python docs/make_layout.py"
    assert all(ROOMS.index(other) < ROOMS.index(room) for room, other in LAYOUT["arrows"]())


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_below(room: str) -> None:
    allowed = {room, *ROOMS[: ROOMS.index(room)]} - ({"lab"} if room not in ("lab", "cli") else set())
    up = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path in FILES
        if room_of(path) == room
        for line, other in rooms_imported(path)
        if other not in allowed
    ]
    assert not up, "\n".join(up)


def test_the_package_does_not_import_its_evidence_or_tests() -> None:
    outside = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES
        for line, name in imported(path)
        if name.split(".")[0] in ("evidence", "tests")
    ]
    assert not outside, "\n".join(outside)


def modules() -> dict[str, Path]:
    names = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    arrows = {
        name: {
            target
            for _, full in imported(path)
            for target in (full, full.rpartition(".")[0])
            if target in known and target != name
        }
        for name, path in known.items()
    }
    # A package's docstring module re-exports what is inside it: an arrow inwards, which closes no circle by itself.
    for name, targets in arrows.items():
        arrows[name] = {target for target in targets if not name.startswith(f"{target}.")}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in arrows[name]:
                visit(target, (*path, name))
            done.add(name)

    for name in arrows:
        visit(name, ())


@pytest.mark.parametrize("room", [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_a_room_says_what_it_is_and_what_it_may_import(room: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))
    assert text
    assert "mport" in text, f"{room}/__init__.py does not say what it imports"


def loaded_by(module: str, *prefixes: str) -> list[str]:
    """The modules with one of the prefixes that importing `module` in a process of its own has loaded."""
    program = f"import sys, {module}; print(*[name for name in sys.modules if name.startswith({prefixes!r})])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_training_loads_no_program_that_pre_trains() -> None:
    rooms = [f"graceful_forgetting.{room}" for room in ("lab", "worlds", "runs")]
    assert loaded_by("graceful_forgetting.training.trainer", *rooms) == []


@pytest.mark.parametrize("module", ["cli", "report", "runs.finished_runs", "sweeps.archive"])
def test_what_reads_results_loads_no_library_of_models(module: str) -> None:
    assert loaded_by(f"graceful_forgetting.{module}", "torch", "transformers", "trl", "datasets") == []


def test_a_sweep_loads_trainers_only_when_a_cell_is_missing() -> None:
    assert loaded_by("graceful_forgetting.sweeps.run", "trl.trainer.sft_trainer", "graceful_forgetting.baselines") == []
