"""The report of a sweep: one self-contained HTML file from the result files of its cells."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graceful_forgetting.report.html import write_page
from graceful_forgetting.report.sweep_plots import heat_maps, learning_curves
from graceful_forgetting.results.result import Provenance
from graceful_forgetting.sweeps.cell import CellResult
from graceful_forgetting.sweeps.comparison import Group
from graceful_forgetting.sweeps.tables import Table


def render_sweep(
    cells: Sequence[CellResult], groups: Sequence[Group], tables: Sequence[Table], path: str | Path
) -> Path:
    """Write heat maps and learning curves of `groups` and the tables of `cells` to the HTML file `path`; returns it.

    Names from the grid are escaped, and a content security policy lets nothing run or load but the report's own
    script. Raises `ValueError` if there are no cells.
    """
    if not cells:
        raise ValueError("cells is empty: there is nothing to report")
    # The same machine and versions are told once.
    common = [(repr(origin), origin) for origin in map(_common, cells)]
    origins, counts = dict(common), Counter(key for key, _ in common)
    context = {
        "name": cells[0].sweep,
        "cells": cells,
        "methods": dict.fromkeys(cell.method for cell in cells),
        "seeds": sorted({cell.seed for cell in cells}),
        "heat_maps": heat_maps(groups),
        "curves": [figure for group in groups for figure in learning_curves(group)],
        "tables": tables,
        "origins": [(origin, counts[key]) for key, origin in origins.items()],
    }
    return write_page("sweep.html", context, path)


def _common(cell: CellResult) -> Provenance:
    """Machine and versions, without what differs from cell to cell."""
    return replace(
        cell.provenance,
        command_line=[],
        model_fingerprint="",
        data_fingerprints={},
        posterior_fingerprint=None,
        seeds=[],
    )
