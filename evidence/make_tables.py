"""Writes the tables of docs/ from the result files in evidence/archives/.

    python -m evidence.make_tables          rewrite what stands between the markers
    python -m evidence.make_tables --check  exit with 1 if that would change anything

A table stands in a Markdown file between `<!-- table: NAME -->` and `<!-- end -->`; evidence/tables/specs.py has the
names.
"""

import sys
from pathlib import Path

from evidence.tables.pages import filled, update
from evidence.tables.specs import TABLES

ROOT = Path(__file__).parents[1]
PAGES = (
    "quickstart.md",
    "log.md",
    "methods.md",
    "base-model.md",
    "tasks.md",
    "index.md",
    "scoring-study.md",
    "cost.md",
    "when-it-helps.md",
    "uses/facts.md",
    "uses/identity.md",
    "uses/labels.md",
    "uses/paper-tasks.md",
)
FILES = (
    ROOT / "README.md",
    ROOT / "src" / "graceful_forgetting" / "training" / "checkpoint" / "README.md",
    *(ROOT / "docs" / page for page in PAGES),
)


def main() -> int:
    return update({path: filled(path.read_text(encoding="utf-8"), TABLES) for path in FILES}, "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
