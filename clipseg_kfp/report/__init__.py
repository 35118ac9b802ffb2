"""The report of a run: one HTML file that needs no network and no server."""

from clipseg_kfp.report.build import build_report
from clipseg_kfp.report.content import Agreement, GalleryItem, Heat, PromptRow, QuarantineRow, Report, Tile
from clipseg_kfp.report.render import render_report

__all__ = [
    "Agreement",
    "GalleryItem",
    "Heat",
    "PromptRow",
    "QuarantineRow",
    "Report",
    "Tile",
    "build_report",
    "render_report",
]
