"""The report of a run: one HTML file that needs no network and no server."""

from clipseg_kfp.report.build import build_report
from clipseg_kfp.report.render import (
    GalleryItem,
    PromptRow,
    QuarantineRow,
    Report,
    Tile,
    render_report,
)

__all__ = [
    "GalleryItem",
    "PromptRow",
    "QuarantineRow",
    "Report",
    "Tile",
    "build_report",
    "render_report",
]
