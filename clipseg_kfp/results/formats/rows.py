"""What all formats share: rows of the results' tables, taken together image by image, and output files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.masks.raster import Mask, decode_rle

Row = dict[str, Any]

#: Category ids and names, in the order in which a format lists them.
Categories = Sequence[tuple[int, str]]


def done(images: Iterable[Row]) -> Iterator[Row]:
    """Leaves out images that ended in the quarantine."""
    return (row for row in images if row.get("status", "done") == "done")


def with_masks(images: Iterable[Row], masks: Iterable[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Joins two streams; no more than one image's masks are in memory.

    Args:
        images: rows of ``records.IMAGES``; those of the quarantine are left out.
        masks: rows of ``records.MASKS`` in the same order of images; an image may have none.

    Yields:
        Each image with its masks that have a pixel.

    Raises:
        ParameterError: a mask is of no image, or the order differs.
    """
    groups = groupby(masks, key=_image)
    key, group = next(groups, (None, iter(())))
    for image in done(images):
        if key != _image(image):
            yield image, []
            continue
        yield image, [row for row in group if row["area"]]
        key, group = next(groups, (None, iter(())))
    if key is not None:
        raise ParameterError(
            f"The masks of '{key[0]}' have no image, or the tables' rows are in different orders.",
            "Export images and masks of the same runs, as they lie in the results.",
        )


def _image(row: Row) -> tuple[str, str]:
    return row["key"], row["version"]


def pixels(row: Row) -> Mask:
    """The mask of a row of ``records.MASKS``, bool (height, width)."""
    return decode_rle(row["rle"], row["width"], row["height"])


class CategoryTable:
    """Category ids with their names and places.

    Args:
        categories: ids and names; ids must differ.

    Raises:
        ParameterError: an id is there twice.
    """

    def __init__(self, categories: Categories) -> None:
        self._place = {number: place for place, (number, _) in enumerate(categories)}
        if len(self._place) < len(categories):
            raise ParameterError("Two categories have the same id.", "Give each its own.")
        self.names = [name for _, name in categories]

    def place(self, row: Row) -> int:
        """The 0-based place of a mask's category.

        Raises:
            ParameterError: the category is not in the list.
        """
        place = self._place.get(row["category_id"])
        if place is None:
            raise ParameterError(
                f"The mask of '{row['key']}' has category {row['category_id']}, which is not in the list.",
                "Give all categories of the run.",
            )
        return place


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ``ParameterError`` unless the parameter has one of the values."""
    if value not in choices:
        raise ParameterError(f"{name} is '{value}'.", f"Use one of: {', '.join(choices)}.")


@contextmanager
def text_file(path: Path) -> Iterator[IO[str]]:
    r"""Writes UTF-8 under a temporary name; the name appears when all is there.

    Lone surrogates, which UTF-8 does not have, become ``\udc80`` and so on: JSON reads them back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            yield stream
        temporary.replace(path)
    finally:  # after the rename there is nothing of that name
        temporary.unlink(missing_ok=True)
