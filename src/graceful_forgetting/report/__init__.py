"""The report: one self-contained HTML file made from a result file and the scored self-knowledge."""

from graceful_forgetting.report.html import render_report

__all__ = ["render_report"]
