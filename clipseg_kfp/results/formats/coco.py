"""COCO annotation files, written as a stream.

Image ids are 53 bits of a digest of key and version: an image has the same id in every run, without a table of ids,
and readers that keep numbers as float64 hold it exactly. Two of n images share an id with a probability of about
n^2 / 2^54: 6e-7 for 100,000 images, 6e-5 for a million. It is checked.
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

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
    done,
    pixels,
    run_edges,
    text_file,
    write_items,
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
    as_polygons: bool = False,
    instances: Container[int] = (),
    tolerance: float = 0.0,
) -> int:
    """Writes a COCO file that pycocotools loads; empty masks have no annotation.

    Memory does not grow with the number of images, except for 8 bytes per image to check ids.

    Args:
        path: the file to write.
        images: rows of ``records.IMAGES``; quarantined ones are left out.
        masks: rows of ``records.MASKS``.
        categories: ids and names.
        as_polygons: one polygon per connected region, with holes joined to the outline by a cut of no width, in
            place of compressed run lengths, which are exact.
        instances: ids of categories that get one annotation per 8-connected region instead of one per mask; its
            score is that of the whole mask.
        tolerance: how far polygons may deviate, in pixels, to save points; with 0, pycocotools rasterizes them to
            exactly the mask. ``area`` and ``bbox`` are always the mask's.

    Returns:
        The number of images.

    Raises:
        ParameterError: an image appears twice, a mask's category is not in the list, or two categories have the
            same id.
    """
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
            table.index(row)
            for region in _regions(row, as_polygons, row["category_id"] in instances, tolerance):
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
        write_items(stream, ({"id": number, "name": name} for number, name in categories))
        stream.write(',\n"images": ')
        count = write_items(stream, image_rows())
        stream.write(',\n"annotations": ')
        write_items(stream, annotations())
        stream.write("}\n")
    return count


def _check_ids(ids: array[int]) -> None:
    ordered = np.sort(np.frombuffer(ids, np.uint64)) if ids else np.zeros(0, np.uint64)
    if (ordered[1:] == ordered[:-1]).any():
        raise ParameterError(
            "The same version of an image is in the table twice.",
            "Export each run once; do not join a run to itself.",
            code="export_duplicate_image",
        )


def _regions(row: Row, as_polygons: bool, instances: bool, tolerance: float) -> Iterator[dict[str, Any]]:
    """Shape, area and box of a mask, or of each of its regions."""
    if not row["area"]:
        return
    size = [row["height"], row["width"]]
    if instances:
        for region in components(pixels(row)):
            shape = (
                _points(region.mask, tolerance, region.bbox[:2])
                if as_polygons
                else {"size": size, "counts": _counts(region, row["width"], row["height"])}
            )
            yield {"segmentation": shape, "area": region.area, "bbox": list(region.bbox)}
        return
    whole = _points(pixels(row), tolerance) if as_polygons else {"size": size, "counts": row["rle"]}
    yield {"segmentation": whole, "area": row["area"], "bbox": list(row["bbox"])}


def _points(mask: Mask, tolerance: float, origin: tuple[int, int] = (0, 0)) -> list[list[float]]:
    return [
        [int(v) if v.is_integer() else v for v in (points + origin).ravel().tolist()]
        for points in polygons(mask, tolerance=tolerance)
    ]


def _counts(region: Instance, width: int, height: int) -> str:
    """Compressed run lengths of a region, without a mask of the whole image."""
    x, y, *_ = region.bbox
    changes = run_edges(region.mask.T, y, x, height)  # COCO counts column by column
    counts = np.diff(changes, prepend=0, append=width * height).tolist()
    size = [height, width]
    encoded = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)
    return str(encoded["counts"].decode("ascii"))
