"""COCO annotation files, written as a stream.

Images have ids of 53 bits from their key and version: the same image has the same id in every run, without a
table of them, and every reader holds it exactly, also those that keep numbers as float64. Two of n images
share an id with a chance of about n^2 / 2^54: 6e-7 for 100,000 images, 6e-5 for a million. It is checked.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.masks.cleanup import Instance, components
from clipseg_kfp.masks.raster import Mask
from clipseg_kfp.naming import digest
from clipseg_kfp.results.formats.polygons import polygons
from clipseg_kfp.results.formats.rows import (
    Categories,
    CategoryTable,
    Row,
    check_choice,
    done,
    pixels,
    text_file,
)


def image_id(key: str, version: str) -> int:
    """The id of one version of an image, in 0 to 2^53 - 1."""
    return int(digest([key, version], 14), 16) >> 3


def export_coco(
    path: Path,
    images: Iterable[Row],
    masks: Iterable[Row],
    categories: Categories,
    *,
    segmentation: Literal["rle", "polygons"] = "rle",
    instances: Container[int] = (),
    tolerance: float = 0.0,
) -> int:
    """Writes a COCO file that pycocotools loads; empty masks have no annotation.

    The memory it takes does not grow with the number of images, but for the check of 8 bytes each.

    Args:
        path: the file to write.
        images: rows of ``records.IMAGES``; those of the quarantine are left out.
        masks: rows of ``records.MASKS``.
        categories: ids and names.
        segmentation: ``"rle"`` for compressed run lengths, which are exact; or ``"polygons"``, one for each
            connected region, with holes joined to the outline by a cut of no width.
        instances: ids of categories that get an annotation for each 8-connected region instead of one a
            mask; its score is that of the whole mask.
        tolerance: how far polygons may deviate, in pixels, to save points; with 0 pycocotools' rasterization
            gives back the mask exactly. ``area`` and ``bbox`` are always the mask's.

    Returns:
        The number of images.

    Raises:
        ParameterError: an image is there twice, a mask's category is not in the list, two categories have the
            same id, or ``segmentation`` is none of the two.
    """
    check_choice("segmentation", segmentation, ("rle", "polygons"))
    table = CategoryTable(categories)
    ids = array("Q")

    def image_rows() -> Iterator[Row]:
        for row in done(images):
            ids.append(image_id(row["key"], row["version"]))
            yield {"id": ids[-1], "file_name": row["key"], "width": row["width"], "height": row["height"]}
        _check_ids(ids)

    def annotations() -> Iterator[Row]:
        number = 0
        for row in masks:
            table.place(row)
            for region in _regions(row, segmentation, row["category_id"] in instances, tolerance):
                number += 1
                yield {
                    "id": number,
                    "image_id": image_id(row["key"], row["version"]),
                    "category_id": row["category_id"],
                    **region,
                    "score": row["score"],
                    "iscrowd": 0,
                }

    with text_file(path) as stream:
        stream.write('{"info": {"description": "clipseg-kfp masks"},\n"categories": ')
        _array(stream, ({"id": number, "name": name} for number, name in categories))
        stream.write(',\n"images": ')
        count = _array(stream, image_rows())
        stream.write(',\n"annotations": ')
        _array(stream, annotations())
        stream.write("}\n")
    return count


def _check_ids(ids: array[int]) -> None:
    ordered = np.sort(np.frombuffer(ids, np.uint64)) if ids else np.zeros(0, np.uint64)
    if (ordered[1:] == ordered[:-1]).any():
        raise ParameterError(
            "One version of an image is in the table twice.",
            "Export each run once; do not join a run to itself.",
        )


def _regions(row: Row, segmentation: str, instances: bool, tolerance: float) -> Iterator[dict[str, Any]]:
    """Shape, area and box of a mask, or of each of its regions."""
    if not row["area"]:
        return
    size = [row["height"], row["width"]]
    if instances:
        for part in components(pixels(row)):
            shape = (
                {"size": size, "counts": _counts(part, row["width"], row["height"])}
                if segmentation == "rle"
                else _points(part.mask, tolerance, part.bbox[:2])
            )
            yield {"segmentation": shape, "area": part.area, "bbox": list(part.bbox)}
        return
    whole = {"size": size, "counts": row["rle"]} if segmentation == "rle" else _points(pixels(row), tolerance)
    yield {"segmentation": whole, "area": row["area"], "bbox": list(row["bbox"])}


def _points(mask: Mask, tolerance: float, origin: tuple[int, int] = (0, 0)) -> list[list[float]]:
    return [
        [int(v) if v.is_integer() else v for v in (points + origin).ravel().tolist()]
        for points in polygons(mask, tolerance=tolerance)
    ]


def _counts(part: Instance, width: int, height: int) -> str:
    """Compressed run lengths of a region, without making a mask of the whole image for it."""
    x, y, w, h = part.bbox
    edges = np.diff(np.pad(part.mask.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    offset = (x + np.arange(w))[:, None] * height + y + np.arange(h + 1)  # COCO counts column by column
    starts, ends = offset[edges == 1], offset[edges == -1]
    apart = starts[1:] != ends[:-1]  # a run to a column's end goes on in the next one
    starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    changes = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(changes, prepend=0, append=width * height).tolist()
    size = [height, width]
    encoded = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
    return str(encoded["counts"].decode("ascii"))


def _array(stream: IO[str], rows: Iterable[dict[str, Any]]) -> int:
    stream.write("[")
    count = 0
    for row in rows:
        stream.write(",\n" if count else "\n")
        stream.write(json.dumps(row, ensure_ascii=False))
        count += 1
    stream.write("]")
    return count
