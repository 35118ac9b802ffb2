"""Lays out the gallery's pictures in rows and columns with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK, MUTED, PAPER = (30, 34, 40), (96, 102, 112), (252, 252, 252)
GAP, MARGIN, LINE, SIZE = 8, 12, 22, 15  # pixels; SIZE is the font's


@dataclass(frozen=True)
class Cell:
    """A picture with its caption.

    Attributes:
        image: RGB; centered where the cell is larger.
        caption: one line, at most as wide as the cell.
    """

    image: Image.Image
    caption: str = ""


def sheet(
    rows: Sequence[Sequence[Cell]],
    heads: Sequence[str] = (),
    legend: Sequence[tuple[str, NDArray[np.uint8]]] = (),
) -> Image.Image:
    """Lays out cells in a grid on light paper, which is readable in a dark page as well.

    Args:
        rows: all of the same length. A column is as wide as its widest picture, a row as high as its highest.
        heads: titles of the columns.
        legend: texts below the grid, each beside a square of its color, uint8 (3,).

    Raises:
        ValueError: a text does not fit.
    """
    widths = [max(cell.image.width for cell in column) for column in zip(*rows, strict=True)]
    heights = [max(cell.image.height for cell in row) for row in rows]
    caption = LINE if any(cell.caption for row in rows for cell in row) else 0
    lefts = [MARGIN + sum(widths[:i]) + i * GAP for i in range(len(widths))]
    width = lefts[-1] + widths[-1] + MARGIN
    top = MARGIN + (LINE if heads else 0)
    height = top + sum(heights) + (len(rows) - 1) * GAP + len(rows) * caption + bool(legend) * (LINE + GAP)
    page = Image.new("RGB", (width, height + MARGIN), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(SIZE)

    def write(x: int, y: int, text: str, room: int, ink: tuple[int, int, int]) -> None:
        if pen.textlength(text, font=font) > room:
            raise ValueError(f"'{text}' is wider than {room} pixels")
        pen.text((x, y), text, fill=ink, font=font)

    for i, head in enumerate(heads):
        write(lefts[i], MARGIN - 2, head, widths[i], INK)
    for row, tall in zip(rows, heights, strict=True):
        for cell, left, wide in zip(row, lefts, widths, strict=True):
            page.paste(
                cell.image, (left + (wide - cell.image.width) // 2, top + (tall - cell.image.height) // 2)
            )
            write(left, top + tall + 2, cell.caption, wide, MUTED)
        top += tall + caption + GAP
    x = MARGIN
    for name, color in legend:
        pen.rectangle([x, top + 4, x + 13, top + 17], fill=tuple(color.tolist()))
        write(x + 20, top + 2, name, width - MARGIN - x - 20, INK)
        x += 44 + int(pen.textlength(name, font=font))
    return page


def save(page: Image.Image, path: Path) -> None:
    """Writes a JPEG without chroma subsampling, which would blur outlines."""
    page.save(path, "JPEG", quality=88, subsampling=0, optimize=True)
