"""Writes docs/results.md and its figures from the archives of sweeps in docs/results/.

    python docs/make_results.py          rewrite them
    python docs/make_results.py --check  exit with 1 if that would change anything

An archive is what `graceful report --sweep DIR --archive docs/results/NAME.jsonl` writes. The same archives give the
same files, byte for byte.
"""

import argparse
import sys
from pathlib import Path

from graceful_forgetting.artifacts import write_text
from graceful_forgetting.experiment.sweep.archive import read_archive
from graceful_forgetting.experiment.sweep.comparison import groups_of
from graceful_forgetting.experiment.sweep.tables import markdown_document
from graceful_forgetting.report.standalone import standalone_svg
from graceful_forgetting.report.sweep_plots import heat_maps, learning_curves

DOCS = Path(__file__).parent
INTRODUCTION = """# Results

Made by `make evidence` from the archives in [results/](results/): do not edit. `make evidence-rerun` computes the
archives anew from the grids in [benchmarks/grids/](../benchmarks/grids/). [sweeps.md](sweeps.md) says what the measures
are.
"""


def documents(archives: list[Path], output: Path) -> dict[Path, str]:
    """File -> text: the page `output` and its figures in the folder `figures` beside it."""
    parts, files = [INTRODUCTION], {}
    for archive in archives:
        cells = read_archive(archive)
        groups = groups_of(cells)
        figures = [*heat_maps(groups), *(figure for group in groups for figure in learning_curves(group))]
        images = []
        for number, figure in enumerate(figures, start=1):
            file = output.parent / "figures" / f"{archive.stem}-{number}.svg"
            files[file] = standalone_svg(figure)
            images.append(f"![{figure.title}](figures/{file.name})")
        parts.append(markdown_document(archive.stem, cells) + ("\n" + "\n\n".join(images) + "\n" if images else ""))
    return {output: "\n".join(parts), **files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=DOCS / "results", help="folder of the archives")
    parser.add_argument("--output", type=Path, default=DOCS / "results.md")
    options = parser.parse_args()
    archives = sorted(options.results.glob("*.jsonl"))
    if not archives:
        print(f"no archive in {options.results}: nothing to write")
        return 0
    stale = []
    for path, text in documents(archives, options.output).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not options.check:
                write_text(path, text)
    if stale:
        print(f"{'out of date' if options.check else 'rewritten'}: {', '.join(stale)}")
    return int(bool(stale) and options.check)


if __name__ == "__main__":
    sys.exit(main())
