"""The report of a run, used as a reader uses it."""

import re

import pytest
from page_checks import contrasts, open_details, overflow, screenshot_size

from graceful_forgetting.report import render_report
from graceful_forgetting.runs.changed_answers import ChangedAnswer, ChangedAnswers
from report_data import full_result, samples_of

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
TASKS = ("old habits", "older habits")
ROLES = {"new rule": "learning", "old habits": "forgetting"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """10,000 samples with long texts: the largest report."""
    samples = samples_of(
        10_000, tasks=TASKS, prompt="What is the <b>answer</b> to question", completion="It is this. " * 30
    )
    rows = [ChangedAnswer("What is it? " * 90, "It is this.", "It is that.", "that", "better", 0.0, 1.0)] * 20
    answers = [
        ChangedAnswers(task, role, 1, 100, {"better": 20, "worse": 0, "neither": 0}, rows)
        for task, role in ROLES.items()
    ]
    path = render_report(full_result(), samples, tmp_path_factory.mktemp("report") / "report.html", answers)
    assert path.stat().st_size < 6_000_000
    return path


def cells(page, column):
    """The texts of a column of the table of samples, as shown."""
    position = [head.get_attribute("data-column") for head in page.locator("#sample-table th").all()].index(column)
    return page.locator(f"#sample-table tbody td:nth-child({position + 1})").all_inner_texts()


def numbers(page, column):
    return [float(text.replace("−", "-")) for text in cells(page, column)]


def status(page):
    return page.locator("#sample-status").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_page_fits_the_window_and_can_be_read(report, open_page, tmp_path, width, scheme):
    page = open_page(report, width, scheme)
    assert page.locator("#sample-table tbody tr").count() == 25
    open_details(page)
    assert overflow(page) == []
    found = contrasts(
        page,
        ["h1", ".meta", "nav a", ".statement", "caption", "figcaption", "svg text.tick", "svg text.row-label",
         "#sample-table td.flag.set",
         ".answers td.better", ".pager button:not(:disabled)", "#sample-search", ".tag.reused", "footer p"],
    )  # fmt: skip
    assert {selector: ratio for selector, ratio in found.items() if ratio < 4.5} == {}
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 29)"
    assert dark == (scheme == "dark")
    image_width, image_height = screenshot_size(page, tmp_path / f"{width}-{scheme}.png")
    assert image_width == width
    assert image_height > 2000


def test_a_narrow_window_keeps_the_column_that_decides(report, open_page):
    page = open_page(report, 420)
    for cell in page.locator("#effects .deciding").all():
        box = cell.bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= 420


def test_table_is_searched_filtered_and_paged(report, open_page):
    page = open_page(report)
    assert status(page) == "1 to 25 of 10000"
    page.get_by_role("button", name="Next").click()
    assert status(page) == "26 to 50 of 10000"
    page.get_by_role("button", name="Previous").click()
    assert page.get_by_role("button", name="Previous").is_disabled()
    page.locator("[data-filter=task]").select_option(TASKS[1])
    assert status(page) == "1 to 25 of 5000"
    assert set(cells(page, "task")) == {TASKS[1]}
    page.locator("[data-filter=chosen]").select_option("no")
    assert set(cells(page, "chosen")) == {"no"}
    page.locator("#sample-search").fill("QUESTION 777")
    expect(page.locator("#sample-status")).to_have_text(re.compile(r"^1 to (\d) of \1$"))
    assert all("question 777" in text for text in cells(page, "prompt"))
    page.locator("#sample-search").fill("no such text anywhere")
    expect(page.locator("#sample-status")).to_have_text("No sample matches")
    assert page.locator("#sample-table tbody tr").count() == 0


def test_table_is_sorted_both_ways(report, open_page):
    page = open_page(report)
    heads = page.locator("#sample-table th")
    assert heads.filter(has_text="Confidence").get_attribute("aria-sort") == "descending"
    falling = numbers(page, "forgetting_confidence")
    assert falling == sorted(falling, reverse=True)
    page.get_by_role("button", name="Loss").click()
    falling = numbers(page, "loss")
    assert falling == sorted(falling, reverse=True)
    page.get_by_role("button", name="Loss").click()
    rising = numbers(page, "loss")
    assert rising == sorted(rising)
    assert rising[0] < falling[-1]
    page.get_by_role("button", name="Prompt").click()
    assert cells(page, "prompt")[1].endswith("question 1")
    assert heads.filter(has_text="Prompt").get_attribute("aria-sort") == "ascending"
    page.locator("#sample-size").select_option("100")
    assert page.locator("#sample-table tbody tr").count() == 100


def test_keyboard_alone_reaches_and_works_everything(report, open_page):
    page = open_page(report)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"

    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """() => {
              const element = document.activeElement;
              const style = getComputedStyle(element);
              const name = element.id || element.dataset.filter || element.className || element.tagName;
              return [name || element.tagName, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1];
            }"""
        )
        reached.add(here[0])
        assert here[1], f"{here[0]} has the focus and does not show it"
        if here[0] == "sample-next":
            break
    assert {"plot", "sample-search", "task", "chosen", "sample-size", "sample-next"} <= reached
    page.keyboard.press("Enter")
    assert status(page) == "26 to 50 of 10000"

    page.get_by_role("button", name="Quadratic term").focus()
    page.keyboard.press("Enter")
    falling = numbers(page, "confidence_quadratic")
    assert falling == sorted(falling, reverse=True)
    long_text = page.locator("#sample-table tbody details").first
    long_text.locator("summary").focus()
    page.keyboard.press("Enter")
    assert long_text.get_attribute("open") is not None

    plot = page.locator(".plot[data-readout]").first
    readout = plot.locator("xpath=following-sibling::p")
    plot.focus()
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("step 1: Plain fine-tuning 2.000, LWF 2.000")
    page.keyboard.press("End")
    assert readout.inner_text().startswith("step 3: Plain fine-tuning 0.6667")
    page.keyboard.press("ArrowLeft")
    assert readout.inner_text().startswith("step 2: ")


def test_pointer_reads_curves(report, open_page):
    page = open_page(report)
    plot = page.locator(".plot[data-readout]").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
    assert plot.locator("xpath=following-sibling::p").inner_text().startswith("step 3: ")
    assert plot.locator("line.cursor").count() == 1


def test_narrow_page_sorts_without_column_heads(report, open_page):
    page = open_page(report, 420)
    page.locator("#sample-sort").select_option("Loss (nats per token)")
    page.get_by_role("button", name="Descending").click()
    rising = numbers(page, "loss")
    assert rising == sorted(rising)
    label = page.locator("#sample-table tbody td.num").first
    assert label.evaluate("(cell) => getComputedStyle(cell, '::before').content") == '"Forgetting confidence (nats)"'
