"""Renders the run report: plain data in, one self-contained HTML page out.

The page has to work in the Kubeflow UI's ``iframe srcdoc sandbox="allow-scripts"``: no network, no
storage, no origin of its own. Keys, prompts and messages are other people's data: Jinja escapes all of
them, characters that would hide or reorder text are spelled out, none reaches the script, and a content
security policy inside the page allows no script but the page's own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace

from markupsafe import Markup

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.report.agreement import lead, sweep_heads, sweep_rows, totals
from clipseg_kfp.report.content import GalleryItem, Report, Tile
from clipseg_kfp.report.figures import drawn_prompts, figures_of
from clipseg_kfp.report.templates import template
from clipseg_kfp.report.text import percent

ROWS_PER_CARD = 6  # rows of a gallery card before the rest folds away


@dataclass(frozen=True)
class _Line:
    """A row of a card: a tile with the number of its prompt in the legend."""

    tile: Tile
    number: int


@dataclass(frozen=True)
class _Heat:
    """A heat map of a card, with the number of its prompt in the legend."""

    number: int
    prompt: str
    picture: Markup


@dataclass(frozen=True)
class _Card:
    """A gallery item made ready for the template."""

    item: GalleryItem
    preview: Markup
    overlay: Markup
    heats: tuple[_Heat, ...]
    truth: Markup
    lines: tuple[_Line, ...]
    folded: tuple[_Line, ...]
    absent: tuple[str, ...]
    summary: str


@dataclass(frozen=True)
class _Legend:
    """A prompt of the legend: its place, its color, and the cards that show it."""

    number: int
    name: str
    color: str
    cards: int


def render_report(report: Report, limit_bytes: int = 4_500_000) -> str:
    """Renders the page, leaving out what does not fit.

    Heat maps beyond the first of an image go first, then gallery items, from the end; should the tables alone be
    too long, quarantine rows and then prompt rows go too. The page says how many of how many it shows.

    Args:
        report: what to show.
        limit_bytes: size of the page in UTF-8 that is never passed.

    Returns:
        The page.

    Raises:
        ParameterError: if not even the headline and the facts fit.
    """
    numbers = _numbers(report)
    cards: list[_Card] = []
    room, gallery = limit_bytes, report.gallery
    if sum(map(_size, gallery)) > 9 * limit_bytes // 10:  # the rest is for tables
        gallery = tuple(replace(item, heats=item.heats[:1]) for item in gallery)
    for item in gallery:  # pictures that cannot fit are not even encoded
        room -= _size(item)
        if room < 0:
            break
        cards.append(_card(item, numbers))

    def fits(shown: int, quarantine: int, prompts: int) -> str | None:
        page = _page(report, cards[:shown], numbers, quarantine, prompts)
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
    )


def _size(item: GalleryItem) -> int:
    """Bytes that an item's pictures take in the page."""
    pictures = (item.preview, item.overlay, item.truth, *(heat.jpeg for heat in item.heats))
    return 4 * sum(map(len, pictures)) // 3


def _largest(most: int, attempt: Callable[[int], str | None]) -> str | None:
    """Finds the page for the largest number, 0 to ``most``, that fits; None if none does."""
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
    """Numbers all prompts: those of the set in order, then any that only tiles name."""
    names = [row.name for row in report.prompts]
    names += [tile.prompt for item in report.gallery for tile in item.tiles]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def _card(item: GalleryItem, numbers: dict[str, int]) -> _Card:
    lines = tuple(
        _Line(tile, numbers[tile.prompt]) for tile in item.tiles if tile.coverage > 0 or tile.missed
    )
    found = [f"{line.tile.prompt} {percent(line.tile.coverage)}" for line in lines]
    return _Card(
        item=item,
        preview=_data_uri(item.preview),
        overlay=_data_uri(item.overlay),
        heats=tuple(_Heat(numbers[heat.prompt], heat.prompt, _data_uri(heat.jpeg)) for heat in item.heats),
        truth=_data_uri(item.truth),
        lines=lines[:ROWS_PER_CARD],
        folded=lines[ROWS_PER_CARD:],
        absent=tuple(t.prompt for t in item.tiles if t.coverage <= 0 and not t.missed),
        summary=", ".join(found[:ROWS_PER_CARD]) or "nothing found",
    )


def _data_uri(picture: bytes) -> Markup:
    """Encodes a picture for ``src``; Markup, since base64 needs no escaping and no cutting."""
    if not picture:
        return Markup("")
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}")


def _page(report: Report, cards: list[_Card], numbers: dict[str, int], quarantine: int, prompts: int) -> str:
    colors = {row.name: row.color for row in report.prompts}
    hits: dict[str, int] = {}
    for card in cards:
        for line in (*card.lines, *card.folded):
            hits[line.tile.prompt] = hits.get(line.tile.prompt, 0) + 1
    legend = [
        _Legend(number, name, colors.get(name, ""), hits[name])
        for name, number in numbers.items()
        if name in hits
    ]
    names = ("listed", "done", "skipped", "quarantined", "masks", "left")
    counts = {name: report.counts.get(name, 0) for name in names}
    unaccounted = counts["listed"] - counts["done"] - counts["skipped"] - counts["quarantined"]
    return template("report.html.j2").render(
        report=replace(
            report,
            quarantine=report.quarantine[:quarantine],
            prompts=report.prompts[:prompts],
        ),
        counts=counts,
        unaccounted=unaccounted,
        cards=cards,
        gallery_total=len(report.gallery),
        prompts_total=len(report.prompts),
        legend=legend,
        colors={numbers[name]: color for name, color in colors.items()},
        figures=figures_of(report),
        drawn=drawn_prompts(report),
        lead=lead(report),
        sweep_heads=sweep_heads(report),
        sweep_rows=sweep_rows(report),
        totals=totals(report),
        views=[
            name
            for name, there in (
                ("overlay", True),
                ("image", True),
                ("heat", any(card.heats for card in cards)),
                ("truth", any(card.truth for card in cards)),
            )
            if there
        ],
        chosen_for=list(dict.fromkeys(card.item.reason for card in cards if card.item.reason)),
        has_iou=any(line.tile.iou is not None for card in cards for line in (*card.lines, *card.folded)),
    )
