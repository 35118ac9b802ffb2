"""Renders the run report: plain data in, one self-contained HTML page out.

The page has to work in the Kubeflow UI's ``iframe srcdoc sandbox="allow-scripts"``: no network, no
storage, no origin of its own. Keys, prompts and messages are other people's data: Jinja escapes all of
them, characters that would hide or reorder text are spelled out, none reaches the script, and a content
security policy inside the page allows no script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.naming import printable

MAX_TEXT = 2_000  # characters shown of any one string; object keys stop at 1,024 bytes
ROWS_PER_CARD = 6  # rows of a gallery card before the rest folds away

_COLOR = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True)
class Tile:
    """What one prompt found in one image.

    Attributes:
        prompt: name of the prompt.
        coverage: share of the image inside the mask, 0 to 1.
        score: mean probability inside the mask, 0 to 1.
        iou: intersection over union with the ground truth; None where there is none.
    """

    prompt: str
    coverage: float
    score: float
    iou: float | None

    @property
    def missed(self) -> bool:
        """Says whether the ground truth has something here and the mask nothing."""
        return self.coverage <= 0 and self.iou == 0


@dataclass(frozen=True)
class GalleryItem:
    """One image of the gallery.

    Attributes:
        key: name below the data set's root.
        source: what people see of the place, for example the URI.
        width: of the source image, in pixels.
        height: of the source image, in pixels.
        preview: a small JPEG of the image.
        overlay: a JPEG or PNG of the same size with the masks drawn in.
        tiles: one a prompt, in the order of the prompt set.
    """

    key: str
    source: str
    width: int
    height: int
    preview: bytes
    overlay: bytes
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class PromptRow:
    """One prompt over the whole run.

    Attributes:
        name: of the prompt.
        texts: the words it stands for; none for image and embedding prompts.
        color: ``#rrggbb``, as used in the overlays.
        threshold: probability from which a pixel counts; ``None`` where Otsu's method chooses it.
        images: number of images with a non-empty mask.
        mean_coverage: mean share of the image, 0 to 1.
        mean_score: mean probability inside the masks, 0 to 1.
        iou: intersection over union with the ground truth; None where there is none.
    """

    name: str
    texts: tuple[str, ...]
    color: str
    threshold: float | None
    images: int
    mean_coverage: float
    mean_score: float
    iou: float | None

    def __post_init__(self) -> None:
        if not _COLOR.fullmatch(self.color):
            raise ParameterError(
                f"The colour {self.color!r} of the prompt {self.name!r} is not of the form #rrggbb."
            )


@dataclass(frozen=True)
class QuarantineRow:
    """One image that was set aside.

    Attributes:
        key: name below the data set's root.
        reason: short code.
        detail: the same for people.
    """

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    Attributes:
        title: headline, for example the data set's name.
        run: identifier of the run.
        created: time in ISO 8601, UTC.
        facts: what the run was made with (model, digest, parameters), as names and values.
        counts: images ``listed``, ``done``, ``skipped``, ``quarantined``, and ``masks`` written.
        mean_iou: over prompts; None without ground truth.
        prompts: the prompt set.
        quarantine: images set aside, or the first of them.
        quarantine_total: number of all images set aside.
        gallery: a choice of images, the most telling first.
        notes: remarks for the reader, one a paragraph.
    """

    title: str
    run: str
    created: str
    facts: tuple[tuple[str, str], ...]
    counts: dict[str, int]
    mean_iou: float | None
    prompts: tuple[PromptRow, ...]
    quarantine: tuple[QuarantineRow, ...]
    quarantine_total: int
    gallery: tuple[GalleryItem, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    """A row of a card: a tile with the number of its prompt in the legend."""

    tile: Tile
    number: int


@dataclass(frozen=True)
class _Card:
    """A gallery item made ready for the template."""

    item: GalleryItem
    preview: Markup
    overlay: Markup
    lines: tuple[_Line, ...]
    folded: tuple[_Line, ...]
    absent: tuple[str, ...]
    summary: str


@dataclass(frozen=True)
class _Legend:
    """A prompt of the legend: its place, its colour, and the cards that show it."""

    number: int
    name: str
    color: str
    cards: int


def render_report(report: Report, limit_bytes: int = 4_500_000) -> str:
    """Renders the page, leaving out what does not fit.

    Gallery items go first, from the end; should the tables alone be too long, quarantine rows and then
    prompt rows go too. The page says how many of how many it shows.

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
    room = limit_bytes
    for item in report.gallery:  # pictures that cannot fit are not even encoded
        room -= 4 * (len(item.preview) + len(item.overlay)) // 3
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
        lines=lines[:ROWS_PER_CARD],
        folded=lines[ROWS_PER_CARD:],
        absent=tuple(t.prompt for t in item.tiles if t.coverage <= 0 and not t.missed),
        summary=", ".join(found[:ROWS_PER_CARD]) or "nothing found",
    )


def _data_uri(picture: bytes) -> Markup:
    """Encodes a picture for ``src``; Markup, since base64 needs no escaping and no cutting."""
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
    counts = {
        name: report.counts.get(name, 0) for name in ("listed", "done", "skipped", "quarantined", "masks")
    }
    unaccounted = counts["listed"] - counts["done"] - counts["skipped"] - counts["quarantined"]
    return _template().render(
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
        has_iou=any(line.tile.iou is not None for card in cards for line in (*card.lines, *card.folded)),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("clipseg_kfp", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, thousands=thousands, moment=moment, visible=visible, csp_hash=_csp_hash
    )
    return environment.get_template("report.html.j2")


def _finalize(value: Any) -> Any:
    """Makes every printed string visible; Markup is the template's own and stays as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _csp_hash(script: str) -> Markup:
    return Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"))


def visible(text: str) -> str:
    r"""Spells out what would hide or reorder text (``\u202e``) and shortens what is very long."""
    if len(text) > MAX_TEXT:
        text = text[: MAX_TEXT - 1] + "…"
    return printable(text, keep="\t\n")


def percent(value: float | None) -> str:
    """Formats a share with one decimal; what is not quite nothing or all never reads as if it were."""
    if value is None or not math.isfinite(value):
        return "\u2013"  # an en dash
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{value:.1%}"


def thousands(value: int) -> str:
    """Formats a count, for example ``1,204``."""
    return f"{value:,}"


def moment(text: str) -> str:
    """Formats an ISO 8601 time for people, in UTC; leaves what it cannot read as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"
