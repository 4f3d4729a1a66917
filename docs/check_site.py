"""Checks the built site: `make docs` runs it after mkdocs.

    python docs/check_site.py site

Nothing is loaded from elsewhere when a page is viewed, and every public name has its place in the Python reference.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path

import graceful_forgetting

# Attribute of a tag -> what a browser fetches by itself. `<a href>` is followed by a person only.
_FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_NOT_FETCHED = {"canonical", "next", "prev", "alternate"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors.add(values.get("id") or "")
        if tag in _FETCHED and values.get("rel") not in _NOT_FETCHED:
            self.fetched.append(values.get(_FETCHED[tag]) or "")


def problems(site: Path) -> list[str]:
    """What is wrong with the site, one line each."""
    found = []
    pages = {path.relative_to(site).as_posix(): _Page() for path in sorted(site.rglob("*.html"))}
    for name, page in pages.items():
        page.feed((site / name).read_text(encoding="utf-8"))
        found += [f"{name} loads {url}" for url in page.fetched if "//" in url]
    for path in sorted(site.rglob("*.css")):
        if "url(http" in path.read_text(encoding="utf-8") or "url(//" in path.read_text(encoding="utf-8"):
            found.append(f"{path.relative_to(site)} loads something from elsewhere")
    anchors = pages["reference/python.html"].anchors
    found += [
        f"reference/python.html has no entry graceful_forgetting.{name}"
        for name in graceful_forgetting.__all__
        if f"graceful_forgetting.{name}" not in anchors
    ]
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    sys.exit("\n".join(lines) if lines else 0)
