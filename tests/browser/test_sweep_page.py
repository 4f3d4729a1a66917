"""The report of a sweep, used as a reader uses it."""

import pytest
from page_checks import contrasts, open_details, overflow, screenshot_size

from graceful_forgetting.report import render_sweep
from graceful_forgetting.sweeps.comparison import groups_of
from graceful_forgetting.sweeps.tables import sweep_tables
from sweep_data import some_cells


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    cells, groups = some_cells(), groups_of(some_cells())
    return render_sweep(cells, groups, sweep_tables(cells, groups), tmp_path_factory.mktemp("sweep") / "report.html")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (420, "dark")])
def test_page_fits_the_window_and_can_be_read(sweep, open_page, tmp_path, width, scheme):
    page = open_page(sweep, width, scheme)
    open_details(page)
    assert overflow(page) == []
    found = contrasts(page, ["h1", ".meta", "nav a", "thead th", "tbody td", "svg text.tick", "figcaption"])
    assert {selector: ratio for selector, ratio in found.items() if ratio < 4.5} == {}
    assert screenshot_size(page, tmp_path / f"{width}-{scheme}.png")[0] == width


def test_curves_are_read_with_the_keyboard(sweep, open_page):
    page = open_page(sweep)
    plot = page.locator(".plot[data-readout]").first
    plot.focus()
    page.keyboard.press("End")
    assert plot.locator("xpath=following-sibling::p").inner_text().startswith("update ")
