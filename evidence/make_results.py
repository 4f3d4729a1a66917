"""Writes docs/results.md and the figures of docs/ from the archives in evidence/archives/.

    python -m evidence.make_results          rewrite them
    python -m evidence.make_results --check  exit with 1 if that would change anything

An archive is what `graceful report --sweep DIR --archive evidence/archives/NAME.jsonl` writes. The same archives
give the same files, byte for byte.
"""

import argparse
import sys
from pathlib import Path

from evidence.plots.demo import demo_chart
from evidence.plots.scoring import step_size_charts
from evidence.plots.standalone import standalone_svg
from evidence.scoring_study.rows import read_rows
from evidence.scoring_study.summary import Study
from evidence.tables.pages import update
from graceful_forgetting.report.sweep_plots import heat_maps, learning_curves
from graceful_forgetting.sweeps.archive import read_archive
from graceful_forgetting.sweeps.comparison import groups_of
from graceful_forgetting.sweeps.tables import markdown_document, sweep_tables

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RESULTS = ROOT / "evidence" / "archives"
INTRODUCTION = """# Results

Made by `make evidence` from the archives in [evidence/archives/](../evidence/archives/): do not edit.
`make evidence-rerun` computes the archives anew from the grids in [evidence/grids/](../evidence/grids/).
[sweeps.md](sweeps.md) says what the measures are.
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
        document = markdown_document(archive.stem, sweep_tables(cells, groups))
        parts.append(document + ("\n" + "\n\n".join(images) + "\n" if images else ""))
    return {output: "\n".join(parts), **files}


def scoring_figures(archive: Path, figures: Path) -> dict[Path, str]:
    """File -> SVG: a chart of the scoring study a world, which docs/scoring-study.md shows."""
    study = Study(read_rows(archive))
    charts = zip(study.worlds, step_size_charts(study), strict=True)
    return {figures / f"scoring-{world}.svg": standalone_svg(chart) for world, chart in charts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the archives")
    parser.add_argument("--output", type=Path, default=DOCS / "results.md")
    options = parser.parse_args()
    archives = sorted(options.results.glob("*.jsonl"))
    wanted = documents(archives, options.output) if archives else {}
    study = options.results / "scoring" / "study.jsonl"
    if study.is_file():
        wanted |= scoring_figures(study, options.output.parent / "figures")
    if wanted and options.results == RESULTS:
        wanted[options.output.parent / "figures" / "demo.svg"] = standalone_svg(demo_chart())
    if not wanted:
        print(f"no archive in {options.results}: nothing to write")
        return 0
    return update(wanted, options.check)


if __name__ == "__main__":
    sys.exit(main())
