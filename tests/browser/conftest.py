"""The reports in a real browser: the Chromium of this machine, headless, with the network off."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    executable = next((found for name in EXECUTABLES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no Chromium is installed: {', '.join(EXECUTABLES)}")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium) -> Iterator[Callable[..., "Page"]]:
    """Opens an HTML file; at the end of the test, nothing may have been logged, failed or asked for."""
    complaints: list[str] = []
    contexts = []

    def open_file(path: Path, width: int = 1280, scheme: str = "light") -> "Page":
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        url = path.resolve().as_uri()

        def note_request(request) -> None:
            if request.url.partition("#")[0] != url and not request.url.startswith("data:"):
                complaints.append(f"request: {request.url}")

        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", note_request)
        page.goto(url)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []
