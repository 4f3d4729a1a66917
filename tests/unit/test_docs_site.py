"""The pages of the documentation: every setting and name is there, and what they show can be done.

The site itself is built, and checked as built, by `make docs`.
"""

import argparse
import ast
import dataclasses
import importlib.util
import json
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import graceful_forgetting
from graceful_forgetting import config
from graceful_forgetting.cli import command_line
from graceful_forgetting.cli.commands import DEMO_RECIPE
from graceful_forgetting.lab.base_model import BaseModelConfig
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments
from graceful_forgetting.runs.recipe import parse_recipe, recipe_fields

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> Iterator[tuple[str, str, str]]:
    """(place, what follows the language, text) of every code block in it."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            if match.group(1) == language:
                line = text.count("\n", 0, match.start()) + 1
                yield f"{page.relative_to(ROOT)}:{line}", match.group(2).strip(), match.group(3)


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """(place, words) of every call of a program in a `bash` block, comments left out."""
    for place, _, text in blocks("bash"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] == program:
                yield f"{place} {' '.join(words)}", words[1:]


def shown(found: Iterator[tuple[str, Any]]) -> pytest.MarkDecorator:
    """One case for each (place, what is shown there); without any, the test would test nothing."""
    cases = list(found)
    assert cases
    return pytest.mark.parametrize("shown", [case for _, case in cases], ids=[place for place, _ in cases])


# Names and settings --------------------------------------------------------------------------------------------------


def test_settings_page_is_up_to_date():
    module = runpy.run_path(str(DOCS / "make_settings.py"))
    assert module["PAGE"].read_text(encoding="utf-8") == module["page"](), "python docs/make_settings.py"


def test_every_setting_is_on_the_settings_page():
    text = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    for cls in (RunArguments, ModelArguments, config.LWFConfig):
        for field in dataclasses.fields(cls):
            assert not field.init or f"`{field.name}`" in text, f"{cls.__name__}.{field.name}"


def test_every_public_name_is_in_the_python_reference():
    text = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    documented = re.findall(r"^::: graceful_forgetting\.(\w+)$", text, flags=re.MULTILINE)
    assert sorted(documented) == sorted(graceful_forgetting.__all__)


def test_every_command_is_on_its_page():
    text = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    for name in subcommands(command_line._parser()):
        assert f"`graceful {name}" in text or f"`{name}`" in text, name


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        """Reads mkdocs.yml as any YAML."""

    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        return [leaf for part in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(part)]

    navigation = leaves(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])
    assert len(set(navigation)) == len(navigation)
    expected = {page.relative_to(DOCS).as_posix() for page in PAGES}
    expected |= {f"notebooks/{notebook.stem}.md" for notebook in NOTEBOOKS}
    assert expected <= set(navigation)


# What the pages show -------------------------------------------------------------------------------------------------


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


@shown(commands("graceful"))
def test_command_is_understood(shown):
    options, rest = command_line._parser().parse_known_args(shown)
    if options.command == "demo":
        parse_recipe(str(DEMO_RECIPE), rest)
    elif options.command == "base":
        fields = {field.name for field in dataclasses.fields(BaseModelConfig)}
        assert {word[2:].split("=")[0] for word in rest if word.startswith("--")} <= fields
    elif options.command not in command_line.WITH_RECIPE or not rest:
        assert not rest
    elif options.config is None or (ROOT / options.config).exists():
        parse_recipe(None if options.config is None else str(ROOT / options.config), rest)
    else:
        # The reader's own file, of which only the fields that are overridden are known.
        assert options.config == "recipe.yaml"
        assert {word[2:].split("=")[0] for word in rest if word.startswith("--")} <= recipe_fields()


@shown(commands("make"))
def test_target_exists(shown):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in shown:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@shown((place, text) for place, title, text in blocks("yaml") if 'title="recipe.yaml"' in title)
def test_recipe_is_valid(shown, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(shown, encoding="utf-8")
    run, lwf, model = parse_recipe(str(path), [])
    assert run.learning_task
    assert model.model_name_or_path
    assert lwf.unlearn_every > 0


@shown((place, text) for place, _, text in blocks("yaml"))
def test_yaml_can_be_read(shown):
    assert isinstance(yaml.safe_load(shown), dict)


def imported(code: str) -> str:
    """The import statements of some code."""
    return "\n".join(
        ast.unparse(node) for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)
    )


@shown((place, text) for place, _, text in blocks("python"))
def test_python_compiles_and_its_imports_resolve(shown):
    compile(shown, "page", "exec")
    names: dict = {}
    exec(imported(shown), names)
    aliases = [a for node in ast.parse(imported(shown)).body for a in node.names]
    assert {(a.asname or a.name).split(".")[0] for a in aliases} <= names.keys()


@pytest.mark.parametrize("words", [["fields"], ["env"], ["tasks", "list"], ["world", "list"]], ids=" ".join)
def test_cheap_commands_of_the_command_line_page_run(words, capsys):
    assert any(first == words for _, first in commands("graceful"))
    assert command_line.main(words) == 0
    assert capsys.readouterr().out


# Notebooks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(path):
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells
    for cell in cells:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        compile("".join(cell["source"]), path.name, "exec")


def test_two_notebooks_are_run_by_make_docs():
    assert len(NOTEBOOKS) == 2
    dry = subprocess.run(["make", "--dry-run", "docs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "jupyter-execute" in dry
    assert "mkdocs build --strict" in dry


# The site's own code -------------------------------------------------------------------------------------------------


def test_what_a_page_loads_from_elsewhere_is_found(tmp_path):
    problems = runpy.run_path(str(DOCS / "check_site.py"))["problems"]
    (tmp_path / "reference").mkdir()
    names = "".join(f'<h2 id="graceful_forgetting.{name}"></h2>' for name in graceful_forgetting.__all__[1:])
    (tmp_path / "reference" / "python.html").write_text(names)
    (tmp_path / "index.html").write_text(
        '<a href="https://example.org">followed</a><link rel="canonical" href="https://example.org">'
        '<script src="https://example.org/a.js"></script><img src="assets/b.png">'
    )
    (tmp_path / "a.css").write_text("p { background: url(https://example.org/c.png) }")
    assert problems(tmp_path) == [
        "index.html loads https://example.org/a.js",
        "a.css loads something from elsewhere",
        f"reference/python.html has no entry graceful_forgetting.{graceful_forgetting.__all__[0]}",
    ]


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs")
def test_notebook_becomes_markdown_with_what_it_printed(tmp_path):
    hooks = runpy.run_path(str(DOCS / "site_hooks.py"))
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["print(1)\n", "print(2)"],
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["1\n"]},
                {"output_type": "stream", "name": "stderr", "text": ["a warning"]},
                {"output_type": "stream", "name": "stdout", "text": ["2\n"]},
            ],
        },
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert hooks["notebook_markdown"](path) == (
        "# Title\ntext\n\n```python\nprint(1)\nprint(2)\n```\n\n```text\n1\n2\n```\n"
    )


def test_check_of_the_settings_page_fails_when_it_is_out_of_date(tmp_path, monkeypatch):
    copy = tmp_path / "docs" / "make_settings.py"
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    copy.write_text((DOCS / "make_settings.py").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr("sys.argv", [str(copy), "--check"])
    with pytest.raises(SystemExit, match=r"python docs/make_settings.py"):
        runpy.run_path(str(copy), run_name="__main__")
    monkeypatch.setattr("sys.argv", [str(copy)])
    runpy.run_path(str(copy), run_name="__main__")
    monkeypatch.setattr("sys.argv", [str(copy), "--check"])
    runpy.run_path(str(copy), run_name="__main__")
