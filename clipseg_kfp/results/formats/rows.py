"""Shared by all formats: rows of the results' tables, joined image by image, and output files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.masks.raster import Mask, decode_rle

Row = dict[str, Any]

#: Category ids and names, in the order in which a format lists them.
Categories = Sequence[tuple[int, str]]


def done(images: Iterable[Row]) -> Iterator[Row]:
    """Leaves out quarantined images."""
    return (row for row in images if row.get("status", "done") == "done")


def with_masks(images: Iterable[Row], masks: Iterable[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Joins two streams; only the masks of one image are in memory.

    Args:
        images: rows of ``records.IMAGES``; quarantined ones are left out.
        masks: rows of ``records.MASKS`` in the same order of images; an image may have none.

    Yields:
        Each image with its masks that are not empty.

    Raises:
        ParameterError: a mask without an image, or another order.
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
            f"The masks of '{key[0]}' have no image, or the tables have different orders.",
            "Export images and masks of the same runs, as they lie in the results.",
            code="export_tables_differ",
            where=key[0],
        )


def _image(row: Row) -> tuple[str, str]:
    return row["key"], row["version"]


def pixels(row: Row) -> Mask:
    """The mask of a row of ``records.MASKS``, bool (height, width)."""
    return decode_rle(row["rle"], row["width"], row["height"])


class CategoryTable:
    """Category ids with their names and positions.

    Args:
        categories: ids and names.

    Raises:
        ParameterError: two categories have the same id.
    """

    def __init__(self, categories: Categories) -> None:
        self._index = {number: index for index, (number, _) in enumerate(categories)}
        if len(self._index) < len(categories):
            raise ParameterError(
                "Two categories have the same id.", "Give each its own.", code="export_duplicate_category"
            )
        self.names = [name for _, name in categories]

    def index(self, row: Row) -> int:
        """The position of a mask's category, from 0.

        Raises:
            ParameterError: the category is not in the list.
        """
        index = self._index.get(row["category_id"])
        if index is None:
            raise ParameterError(
                f"The mask of '{row['key']}' has category {row['category_id']}, which is not in the list.",
                "Give all categories of the run.",
                code="export_unknown_category",
                where=row["key"],
            )
        return index


def require_categories(categories: Sequence[Any]) -> None:
    """Raises ``ParameterError`` for a list without categories."""
    if not categories:
        raise ParameterError(
            "The format needs a category, and there is none.",
            "Give the run's prompts.",
            code="export_no_category",
        )


def run_edges(mask: Mask, left: int, top: int, width: int) -> NDArray[np.int64]:
    """Where a region's runs start and end in an image whose rows are laid end to end, int64 (2 x runs,).

    Args:
        mask: bool (h, w) of the region's box; at least one pixel is set.
        left: column of the box in the image.
        top: row of the box in the image.
        width: of the image.
    """
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    height, across = mask.shape
    offset = (top + np.arange(height))[:, None] * width + left + np.arange(across + 1)
    starts, ends = offset[edges == 1], offset[edges == -1]
    apart = starts[1:] != ends[:-1]  # a run to a row's end continues in the next row
    starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    return np.stack([starts, ends], axis=1).ravel()


def write_items(stream: IO[str], items: Iterable[Any], **options: Any) -> int:
    """Writes a JSON array, one item per line, as a stream; returns the number of items."""
    stream.write("[")
    count = 0
    for item in items:
        stream.write(",\n" if count else "\n")
        stream.write(json.dumps(item, ensure_ascii=False, **options))
        count += 1
    stream.write("]")
    return count


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write to; the file gets its own name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        yield temporary
        temporary.replace(path)
    finally:  # after the rename there is no file of that name
        temporary.unlink(missing_ok=True)


@contextmanager
def text_file(path: Path) -> Iterator[IO[str]]:
    r"""Opens a file for UTF-8 text, as ``replacing`` does.

    Lone surrogates, which UTF-8 does not have, become ``\udc80`` and so on: JSON reads them back.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        yield stream
