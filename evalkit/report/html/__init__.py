"""A run as one self-contained HTML page."""

from evalkit.report.html.page import render_html, report_path, write_report

__all__ = ["render_html", "report_path", "write_report"]
