"""The comparison of runs, used as a reader uses it."""

import pytest
from page_checks import contrasts, overflow, screenshot_size

from graceful_forgetting.report import render_comparison
from graceful_forgetting.runs.finished_runs import FinishedRun
from report_data import LWF, full_result, samples_of, three_seed_result


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Three runs, two of them of the same 10,000 samples with other scores."""
    texts = {"prompt": "What is the answer to question", "completion": "It is this. " * 30}
    results = [full_result(), three_seed_result(lwf=LWF[::-1]), full_result()]
    results[1].config = {"unlearn_every": 5, "forgetting_tasks": ["old", "older"], "a_long_name_of_a_setting": "x" * 90}
    samples = [samples_of(10_000, **texts), samples_of(10_000, seed=1, **texts), None]
    labels = ["every-10", "a-rather-long-name-of-a-folder/every-5", "no-samples"]
    runs = [FinishedRun(*run) for run in zip(labels, results, samples, strict=True)]
    path = render_comparison(runs, tmp_path_factory.mktemp("comparison") / "comparison.html")
    assert path.stat().st_size < 6_000_000
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_page_fits_the_window_and_can_be_read(comparison, open_page, tmp_path, width, scheme):
    page = open_page(comparison, width, scheme)
    assert page.locator("#sample-table tbody tr").count() == 25
    assert overflow(page) == []
    found = contrasts(page, ["h1", ".letter", "caption", ".verdict-better", "svg text.row-label", "figcaption", "code"])
    assert {selector: ratio for selector, ratio in found.items() if ratio < 4.5} == {}
    image_width, image_height = screenshot_size(page, tmp_path / f"{width}-{scheme}.png")
    assert image_width == width
    assert image_height > 2000


def test_samples_that_only_one_run_chose_are_found(comparison, open_page):
    page = open_page(comparison)
    spreads = [float(text) for text in page.locator("#sample-table tbody td:nth-child(6)").all_inner_texts()]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 90
    page.locator("[data-filter=chosen]").select_option("B")
    assert set(page.locator("#sample-table tbody td:nth-child(7)").all_inner_texts()) == {"B"}
    sorting = page.get_by_role("button", name="Percentile in A")
    sorting.focus()
    page.keyboard.press("Enter")
    ranks = [float(text) for text in page.locator("#sample-table tbody td:nth-child(4)").all_inner_texts()]
    assert ranks == sorted(ranks, reverse=True)
    page.keyboard.press("Space")
    ranks = [float(text) for text in page.locator("#sample-table tbody td:nth-child(4)").all_inner_texts()]
    assert ranks == sorted(ranks)
