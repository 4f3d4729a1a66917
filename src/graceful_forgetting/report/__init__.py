"""The reports: each one self-contained HTML file, made from result files (and the scored self-knowledge of a run).

Imports `results`, `runs` and `sweeps`, whose files it reads.
"""

from graceful_forgetting.report.comparison import render_comparison
from graceful_forgetting.report.html import render_report
from graceful_forgetting.report.sweep import render_sweep

__all__ = ["render_comparison", "render_report", "render_sweep"]
