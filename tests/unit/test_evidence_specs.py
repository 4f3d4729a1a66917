"""Which archives a table is made from."""

from dataclasses import replace

import pytest

from evidence.tables import specs
from graceful_forgetting.sweeps.archive import write_archive
from sweep_data import cell


@pytest.fixture
def archives(tmp_path, monkeypatch):
    monkeypatch.setattr(specs, "ARCHIVES", tmp_path)
    specs.runs.cache_clear()
    yield tmp_path
    specs.runs.cache_clear()


def test_the_defaults_are_compared_in_the_worlds_that_are_archived(archives):
    make = specs.TABLES["default_gains"]
    assert make() == "Nothing is archived."
    (archives / "default").mkdir()
    for world, methods in {
        "override": ("plain", "never_knew", "interference"),
        "harmless": ("plain", "never_knew", "interference", "lwf", "lwf_gap"),
    }.items():
        cells = [
            replace(cell(method, seed), setting=f"build-{b}") for b in (0, 1) for method in methods for seed in (0, 1)
        ]
        write_archive(cells, archives / "default" / f"{world}.jsonl")
    heads, _, *rows = [[part.strip() for part in line.strip("|").split("|")] for line in make().splitlines()[:-2]]
    assert heads == ["method", "`override`", "`harmless`", "mean rank"]
    by_name = {row[0]: row[1:] for row in rows}
    names = ["plain, accuracy", "`never_knew`", "`interference`", "`lwf`", "`lwf_gap`", "`lwf` − `interference`"]
    assert list(by_name) == names
    for name in names[3:]:
        assert by_name[name][1][0] in "+−"
        assert by_name[name][0] == "–"
    assert "override 4, harmless 4" in make()
