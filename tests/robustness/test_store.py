"""What was damaged never serves and is made again once; what is not ours is never used, replaced or removed."""

import hashlib
import os
import threading
from pathlib import Path

import pytest
from datasets import Dataset

from graceful_forgetting.runtime.store import Entry, EntryError, key_of, read_rows

FILES = {"weights.bin": b"\x01\x02\x03\x04", "rows/part.arrow": b"abcd", "rows/state.json": b"{ }"}
NOBODY = 2**22 + 1


def fill(folder: Path) -> dict[str, object]:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return {"counts": {"rows": 3, "share": 0.1}}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "zero": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
    "one bit": flip,
}


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path / "stage", key_of(value=1))


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [*FILES, "record.json", ".graceful-forgetting"])
def test_a_damaged_entry_is_named_and_made_again_once(
    entry: Entry, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert entry.once(fill) == entry.path
    record = entry.check()
    assert record is not None
    assert record["counts"] == {"rows": 3, "share": 0.1}
    DAMAGE[damage](entry.path / name)
    with pytest.raises(EntryError, match=f"its {name} is (damaged|gone)"):
        entry.check()
    assert entry.read() is None
    assert f"{entry.path} is made again, since its {name} is" in caplog.text
    entry.once(fill)
    assert entry.check() == record
    assert {file: (entry.path / file).read_bytes() for file in FILES} == FILES


def test_files_that_change_places_are_found(entry: Entry) -> None:
    entry.once(fill)
    one, other = entry.path / "weights.bin", entry.path / "rows" / "part.arrow"
    one.rename(entry.path / "aside")
    other.rename(one)
    (entry.path / "aside").rename(other)
    with pytest.raises(EntryError, match=r"(weights\.bin|part\.arrow) is damaged \(another content"):
        entry.check()


def test_entries_that_change_places_are_found(tmp_path: Path) -> None:
    one, other = (Entry(tmp_path / name, key_of(value=name)) for name in ("one", "other"))
    one.once(fill)
    one.path.rename(other.path)
    assert one.read() is None
    with pytest.raises(EntryError, match="its settings or inputs changed"):
        other.check()


def test_a_file_is_hashed_once_a_process_and_again_when_it_changed(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: list[object] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: digests.append(given) or digest(*given))
    entry.once(fill)
    assert len(digests) == len(FILES) + 1
    entry.check()
    assert len(digests) == len(FILES) + 1
    weights = entry.path / "weights.bin"
    weights.write_bytes(FILES["weights.bin"])
    os.utime(weights, ns=(1, 1))
    entry.check()
    assert len(digests) == len(FILES) + 2


@pytest.mark.parametrize("make", ["file", "folder", "link", "record of another"])
def test_what_is_not_ours_is_refused_by_name(entry: Entry, tmp_path: Path, make: str) -> None:
    if make == "file":
        entry.path.write_text("mine")
    elif make == "link":
        entry.path.symlink_to(tmp_path / "nowhere")
    else:
        entry.path.mkdir()
        (entry.path / "thesis.txt").write_text("mine")
        if make == "record of another":
            (entry.path / "record.json").write_text('{"key": "mine", "files": {}}')
    for attempt in (entry.check, entry.read, lambda: entry.once(fill), entry.begin, entry.remove, entry.claim):
        with pytest.raises(FileExistsError, match=r"stage was not made by this program .*move it away"):
            attempt()
    assert os.path.lexists(entry.path)
    assert sorted(path.name for path in tmp_path.iterdir()) in (["stage"], ["stage", "stage.lock"])


def test_a_users_file_in_an_entry_is_kept(entry: Entry) -> None:
    entry.once(fill)
    mine = entry.path / "rows" / "mine.txt"
    mine.write_text("mine")
    assert entry.read() is not None
    for attempt in (lambda: Entry(entry.path, key_of(value=2)).write(fill), entry.remove):
        with pytest.raises(FileExistsError, match=r"rows/mine\.txt was not made by this program"):
            attempt()
    assert mine.read_text() == "mine"
    assert entry.read() is not None


def test_a_failed_fill_leaves_the_old_entry(entry: Entry) -> None:
    entry.once(fill)

    def fail(folder: Path) -> dict[str, object]:
        (folder / "weights.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        entry.write(fail)
    assert entry.read() is not None
    assert sorted(path.name for path in entry.path.parent.iterdir()) == ["stage", "stage.lock"]


def test_one_of_several_makes_it_and_clears_what_a_killed_one_left(entry: Entry, tmp_path: Path) -> None:
    leftover = tmp_path / f"stage.partial-graceful-{NOBODY}"
    leftover.mkdir()
    made: list[int] = []
    ready = threading.Barrier(3)

    def slow(folder: Path) -> dict[str, object]:
        made.append(1)
        return fill(folder)

    def use() -> None:
        ready.wait()
        entry.once(slow)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert not leftover.exists()


def test_an_open_folder_keeps_what_is_saved_in_it_until_its_key_changes(entry: Entry) -> None:
    (entry.begin() / "checkpoint-1").mkdir()
    assert (entry.begin() / "checkpoint-1").exists()
    assert list(Entry(entry.path, key_of(value=2)).begin().glob("checkpoint-1")) == []
    (entry.path / "checkpoint-1").mkdir()
    Entry(entry.path / "completions-1", "1").write(fill)
    entry.remove()
    entry.remove()
    assert not entry.path.exists()


def test_a_users_file_in_an_open_folder_is_kept(entry: Entry) -> None:
    mine = entry.begin() / "mine.txt"
    mine.write_text("mine")
    for other in (entry, Entry(entry.path, key_of(value=2))):
        assert (other.begin(fresh=True) / "mine.txt").exists()
        (other.path / "checkpoint-1").mkdir()
        other.remove()
        assert not (other.path / "checkpoint-1").exists()
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("partner", ["a shard in it", "a finished stage"])
def test_records_of_an_open_and_a_finished_folder_that_change_places_are_written_again(
    entry: Entry, tmp_path: Path, partner: str
) -> None:
    folder = entry.begin()
    other = Entry(folder / "scores-1" if partner == "a shard in it" else tmp_path / "finished", "other")
    other.write(fill)
    (tmp_path / "mine.txt").write_text("mine")
    (folder / "mine.txt").write_text("mine")
    own, theirs = folder / "record.json", other.path / "record.json"
    content = own.read_bytes()
    own.write_bytes(theirs.read_bytes())
    theirs.write_bytes(content)
    entry.begin()
    assert other.once(fill) == other.path
    assert other.check() is not None
    assert (folder / "mine.txt").read_text() == "mine"


def test_a_users_file_is_kept_where_the_record_is_that_of_an_open_folder(entry: Entry, tmp_path: Path) -> None:
    entry.once(fill)
    opened = Entry(tmp_path / "open", key_of(value=2)).begin()
    (entry.path / "record.json").write_bytes((opened / "record.json").read_bytes())
    (entry.path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.txt was not made by this program"):
        entry.once(fill)


def test_a_users_file_is_kept_where_the_record_is_damaged(entry: Entry) -> None:
    entry.once(fill)
    (entry.path / "record.json").write_text("{")
    (entry.path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"mine\.txt was not made by this program"):
        entry.once(fill)
    (entry.path / "mine.txt").unlink()
    assert Entry(entry.once(fill), entry.key).check() is not None


def test_an_empty_folder_that_a_kill_has_left_is_made_use_of(entry: Entry) -> None:
    for use in (entry.begin, entry.remove, lambda: entry.once(fill)):
        entry.path.mkdir(exist_ok=True)
        for file in entry.path.iterdir():
            file.unlink()
        use()
    assert entry.check() is not None


def test_reading_rows_writes_nothing_beside_them(tmp_path: Path) -> None:
    Dataset.from_dict({"number": list(range(10))}).save_to_disk(str(tmp_path / "rows"))
    before = sorted(path.name for path in (tmp_path / "rows").iterdir())
    rows = read_rows(tmp_path / "rows")
    assert rows.filter(lambda row: row["number"] > 4).map(lambda row: {"twice": 2 * row["number"]}).sort("number")[
        "twice"
    ][:] == [10, 12, 14, 16, 18]
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == before


def test_what_a_kill_leaves_of_a_removal_goes_with_the_next(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of which some files are removed, its mark among them, is not taken for somebody else's."""
    shard = Entry(entry.begin() / "shard-0", key_of(shard=0))
    shard.write(fill)

    def interrupted(path: Path) -> None:
        (path / ".graceful-forgetting").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("graceful_forgetting.runtime.artifacts.shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            entry.remove()
    entry.remove()
    assert not entry.path.exists()
