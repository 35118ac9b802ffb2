"""Renders the run report: plain data in, one self-contained HTML page out.

The page has to work in the Kubeflow UI's ``iframe srcdoc sandbox="allow-scripts"``: without network, storage or an
origin of its own. Keys, prompts and messages are untrusted: Jinja escapes them, characters that hide or reorder text
are spelled out, none reaches the script, and the page's content security policy allows only its own script.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from clipseg_kfp.dataset.ignored import ignored_text
from clipseg_kfp.errors import ParameterError
from clipseg_kfp.report.agreement import lead, sweep_heads, sweep_rows, totals
from clipseg_kfp.report.content import GalleryItem, Report
from clipseg_kfp.report.figures import drawn_prompts, figures_of
from clipseg_kfp.report.templates import template

ROWS_PER_CARD = 6  # rows of a gallery card; the rest is folded


def render_report(report: Report, limit_bytes: int = 4_500_000) -> str:
    """Renders the page and leaves out what does not fit.

    Heat maps after the first of an image are left out first, then gallery items from the end; then quarantine rows,
    then prompt rows. The page tells how many of how many it shows.

    Args:
        report: the content.
        limit_bytes: the most bytes of the page, in UTF-8.

    Returns:
        The page.

    Raises:
        ParameterError: not even the headline and the facts fit.
    """
    cards: list[GalleryItem] = []
    room, gallery = limit_bytes, report.gallery
    if sum(item.encoded_bytes for item in gallery) > 9 * limit_bytes // 10:  # the rest is for tables
        gallery = tuple(replace(item, heats=item.heats[:1]) for item in gallery)
    for item in gallery:  # pictures that cannot fit are not even encoded
        room -= item.encoded_bytes
        if room < 0:
            break
        cards.append(item)

    def fits(shown: int, quarantine: int, prompts: int) -> str | None:
        page = _page(report, cards[:shown], quarantine, prompts)
        return page if len(page.encode("utf-8")) <= limit_bytes else None

    rows, prompts = len(report.quarantine), len(report.prompts)
    for most, attempt in (
        (len(cards), lambda n: fits(n, rows, prompts)),
        (rows, lambda n: fits(0, n, prompts)),
        (prompts, lambda n: fits(0, 0, n)),
    ):
        page = _largest(most, attempt)
        if page is not None:
            return page
    raise ParameterError(
        f"The report does not fit in {limit_bytes:,} bytes even without pictures and tables.",
        "Allow more bytes, or give fewer facts and notes.",
        code="report_too_large",
    )


def _largest(most: int, attempt: Callable[[int], str | None]) -> str | None:
    """The page for the largest number in 0 to ``most`` that fits; ``None`` if none does."""
    best = attempt(most)
    low, high = 0, most - 1 if best is None else -1
    while low <= high:
        middle = (low + high) // 2
        page = attempt(middle)
        if page is None:
            high = middle - 1
        else:
            best, low = page, middle + 1
    return best


def _numbers(report: Report) -> dict[str, int]:
    """Numbers all prompts: those of the set in order, then others that tiles name."""
    names = [row.name for row in report.prompts]
    names += [tile.prompt for item in report.gallery for tile in item.tiles]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _page(report: Report, cards: list[GalleryItem], quarantine: int, prompts: int) -> str:
    numbers = _numbers(report)
    hits = Counter(tile.prompt for item in cards for tile in item.lines)
    names = ("listed", "done", "skipped", "quarantined", "masks", "left")
    counts = {name: report.counts.get(name, 0) for name in names}
    return template("report.html.j2").render(
        report=replace(report, quarantine=report.quarantine[:quarantine], prompts=report.prompts[:prompts]),
        counts=counts,
        unaccounted=counts["listed"] - counts["done"] - counts["skipped"] - counts["quarantined"],
        ignored=ignored_text(report.ignored),
        cards=cards,
        rows_per_card=ROWS_PER_CARD,
        gallery_total=len(report.gallery),
        prompts_total=len(report.prompts),
        numbers=numbers,
        legend=[(name, hits[name]) for name in numbers if name in hits],
        colors={numbers[row.name]: row.color for row in report.prompts},
        figures=figures_of(report),
        drawn=drawn_prompts(report),
        lead=lead(report),
        sweep_heads=sweep_heads(report),
        sweep_rows=sweep_rows(report),
        totals=totals(report),
        views=[
            *(["overlay", "image"] if any(item.preview for item in cards) else []),
            *(["heat"] if any(item.heats for item in cards) else []),
            *(["truth"] if any(item.truth for item in cards) else []),
        ],
        chosen_for=list(dict.fromkeys(item.reason for item in cards if item.reason)),
        has_iou=any(tile.iou is not None for item in cards for tile in item.lines),
    )
