"""Exports of any number of images: what they hold does not grow with it."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mask_rows import blobs, image_row, mask_row

from clipseg_kfp.results.formats import export_coco, export_csv, export_labelstudio, export_yolo

NAMES = [(1, "a cat"), (2, "a cup")]
SHAPE = (24, 24)


def images(count: int) -> Iterator[dict[str, Any]]:
    return (image_row(f"folder/{i:06}.jpg", SHAPE) for i in range(count))


def masks(count: int, held: list[int]) -> Iterator[dict[str, Any]]:
    row = mask_row("", blobs(*SHAPE, 8))
    for i in range(count):
        for category in (1, 2):
            yield {**row, "key": f"folder/{i:06}.jpg", "category_id": category}
    gc.collect()  # which also empties the interpreter's lists of free objects
    held.append(tracemalloc.get_traced_memory()[0])


def export(kind: str, folder: Path, count: int) -> int:
    """Returns the bytes held when all masks have been asked for."""
    held: list[int] = []
    rows = masks(count, held)
    if kind == "csv":
        export_csv(folder / "m.csv", rows)
    elif kind == "labelstudio":
        export_labelstudio(folder / "t.json", images(count), rows, NAMES)
    elif kind == "yolo":
        export_yolo(folder / str(count), images(count), rows, NAMES)
    else:
        export_coco(folder / "c.json", images(count), rows, NAMES, as_polygons=True)
    return held[0]


@pytest.mark.parametrize("kind", ["csv", "coco", "labelstudio", "yolo"])
def test_memory_is_that_of_one_image(tmp_path: Path, kind: str) -> None:
    """The rows of an image take more than 1 KB; what stays of it is an id, or a digest of its name."""
    export(kind, tmp_path, 3)  # what is made once
    tracemalloc.start()
    try:
        few, many = export(kind, tmp_path, 20), export(kind, tmp_path, 150)
    finally:
        tracemalloc.stop()
    assert (many - few) / 130 < 400  # bytes an image, with the noise of buffers
