"""Tables between the markers of a page."""

import pytest

from evidence.tables.pages import filled, update

PAGE = "before\n<!-- table: one -->\nold\n<!-- end -->\nbetween\n<!-- estimate: one -->\nkept\n<!-- end -->\n"


def test_only_what_stands_between_markers_of_its_kind_is_replaced():
    assert filled(PAGE, {"one": lambda: "| new |"}) == PAGE.replace("old", "| new |")
    assert filled(PAGE, {"one": lambda: "| new |"}, "estimate") == PAGE.replace("kept", "| new |")
    with pytest.raises(KeyError, match="one"):
        filled(PAGE, {})


def test_a_check_writes_nothing_and_fails(tmp_path, capsys):
    same, other, missing = (tmp_path / name for name in ("same.md", "other.md", "missing.md"))
    same.write_text("text")
    other.write_text("old")
    files = {same: "text", other: "new", missing: "new"}
    assert update(files, check=True) == 1
    assert (other.read_text(), missing.exists()) == ("old", False)
    assert capsys.readouterr().out == "out of date: other.md, missing.md\n"
    assert update(files, check=False) == 0
    assert [path.read_text() for path in files] == list(files.values())
    assert update(files, check=True) == 0
