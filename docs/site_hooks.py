"""Hooks of mkdocs: pages of the site that live elsewhere in the repository, and the links between them.

Links in Markdown files are written for the repository, where they can be followed as well. Here each is resolved to a
file of the repository; if that is a page or a file of the site, the link leads there, else it becomes plain text.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Where `make docs` leaves the notebooks with their outputs.
EXECUTED = ROOT / "build" / "notebooks"
# File of the repository -> page of the site.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
    "recipes/README.md": "recipes/index.md",
    "src/graceful_forgetting/tasks/samples/ATTRIBUTION.md": "attribution.md",
}
# What the theme's plugin `offline` loads, for the search on pages opened as files, and the copy of it in docs/.
SHIM = "https://unpkg.com/iframe-worker/shim"
SHIM_COPY = "assets/iframe-worker.js"
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2 *$", re.DOTALL | re.MULTILINE)


def notebook_markdown(path: Path) -> str:
    """A notebook as Markdown: its text, its code, and what that printed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell_parts(cell)) + "\n"


def _cell_parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    # What goes to standard error is progress and advice of libraries.
    printed = [output for output in cell["outputs"] if output["output_type"] == "stream" and output["name"] == "stdout"]
    if printed:
        text = "".join(line for output in printed for line in output["text"])
        yield f"```text\n{text.rstrip()}\n```"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not under docs/, the recipes and the notebooks."""
    for source, target in PAGES.items():
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for recipe in sorted((ROOT / "recipes").rglob("*.yaml")):
        path = recipe.relative_to(ROOT).as_posix()
        files.append(File.generated(config, path, abs_src_path=str(recipe)))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        executed = EXECUTED / notebook.name
        content = notebook_markdown(executed if executed.is_file() else notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=content))
        files.append(File.generated(config, f"notebooks/{notebook.name}", abs_src_path=str(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    del config
    by_target = {target: source for source, target in PAGES.items() if target != "index.md"}
    source = by_target.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if page.file.src_uri.startswith("notebooks/"):
        source = page.file.src_uri

    def relink(match: re.Match[str]) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        if not target or re.match(r"[a-z]+:", target):
            return match.group(0)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        on_site = PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(on_site) is not None:
            return f"[{text}]({posixpath.relpath(on_site, posixpath.dirname(page.file.src_uri) or '.')}{anchor})"
        # A link that leads nowhere stays, for mkdocs to refuse.
        return text if (ROOT / path).exists() else match.group(0)

    return _outside_code(markdown, relink)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load nothing from elsewhere."""
    del config
    return output.replace(SHIM, posixpath.relpath(SHIM_COPY, posixpath.dirname(page.file.src_uri) or "."))


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for the page that says that there is none (404.html)."""
    del template_name, config
    return output_content.replace(SHIM, SHIM_COPY)


def _outside_code(markdown: str, relink: Callable[[re.Match[str]], str]) -> str:
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_LINK.sub(relink, markdown[end : fence.start()]), fence.group(0)]
        end = fence.end()
    return "".join([*parts, _LINK.sub(relink, markdown[end:])])
