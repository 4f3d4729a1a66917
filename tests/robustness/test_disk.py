"""A disk that is full or read-only, and a folder that another process uses: one message, and nothing is lost."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from graceful_forgetting.cli import commands, main
from graceful_forgetting.runtime.artifacts import DiskError, atomic_directory, atomic_file, write_json, writing
from graceful_forgetting.training.stages import RunDirectory

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 992320 vs 992212"),
    RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_one_message(tmp_path, error):
    write_json(tmp_path / "a.json", 1)
    for context in (writing, atomic_file, atomic_directory):
        with pytest.raises(DiskError) as raised, context(tmp_path / "a.json"):
            raise error
        said = str(raised.value)
        assert said.startswith(f"{tmp_path / 'a.json'} cannot be written: ")
        assert f"inodes are free in {tmp_path}. Make room there" in said
        assert "the same command goes on from it" in said
    assert (tmp_path / "a.json").read_text() == "1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("error", [ValueError("x"), PermissionError(errno.EACCES, "denied", "/elsewhere/data.jsonl")])
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as raised, writing(tmp_path / "a"):
        raise error
    assert raised.value is error


def test_a_full_disk_ends_with_code_2(tmp_path, monkeypatch, capsys):
    def fail(options, *rest):
        with atomic_file(tmp_path / "a"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(commands, "fields", fail)
    assert main(["fields"]) == 2
    assert capsys.readouterr().err.startswith(f"graceful fields: error: {tmp_path / 'a'} cannot be written: no space")


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may become larger than 4 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("write", ["json", "torch", "safetensors"])
def test_a_file_that_is_not_taken_whole_leaves_the_old_one(tmp_path, write):
    def fill(folder: Path) -> None:
        if write == "json":
            (folder / "x.json").write_text("1" * 10_000)
        elif write == "torch":
            torch.save(torch.zeros(10_000), folder / "x.pt")
        else:
            save_file({"x": torch.zeros(10_000)}, folder / "x.safetensors")

    with atomic_directory(tmp_path / "stage") as partial:
        (partial / "old").touch()
    with pytest.raises(DiskError, match="stage cannot be written"), atomic_directory(tmp_path / "stage") as partial:
        fill(partial)
    assert [path.name for path in tmp_path.rglob("*")] == ["stage", "old"]


def read_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As for another user than root, whom no mode of a file stops."""
    opened = os.open

    def refuse(path, flags, *rest, **keywords):
        if flags & (os.O_WRONLY | os.O_RDWR) and Path(os.fsdecode(path)).is_relative_to(folder):
            raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))
        return opened(path, flags, *rest, **keywords)

    def refuse_folder(path, *rest, **keywords):
        raise PermissionError(errno.EACCES, "Permission denied", os.fsdecode(path))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "mkdir", refuse_folder)


def test_a_finished_stage_in_a_read_only_folder_serves(tmp_path, monkeypatch):
    def run(value: int) -> list[str]:
        lines: list[str] = []
        directory = RunDirectory(tmp_path / "run", announce=lines.append)
        directory.stage("first", {"value": value}, [], lambda path, key: {})
        return lines

    run(1)
    (tmp_path / "run" / ".lock").unlink()
    read_only(monkeypatch, tmp_path)
    assert run(1) == ["first: reused (ok)"]
    with pytest.raises(DiskError, match=r"first cannot be written: permission denied; make .*run writable"):
        run(2)


HOLDER = """
import sys, time
from pathlib import Path
from graceful_forgetting.runtime.lock import hold
lock = hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_serves_one_process_and_a_killed_one_lets_go(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"output_dir='{tmp_path}' is in use by another process: wait until"):
            RunDirectory(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    # Itself it does not lock out, and when it is done, nobody.
    for directory in [RunDirectory(tmp_path), RunDirectory(tmp_path)]:
        directory.close()
    second = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert second.stdout is not None
        assert second.stdout.readline() == "held\n"
    finally:
        second.kill()
        second.wait()
