"""COCO annotation files, written as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any


def write(
    path: Path,
    images: Iterable[dict[str, Any]],
    masks: Iterable[dict[str, Any]],
    categories: list[str],
) -> int:
    """Writes a COCO file that pycocotools loads; empty masks have no annotation.

    Args:
        path: the file to write.
        images: rows of ``records.IMAGES``.
        masks: rows of ``records.MASKS``, in the same order of images.
        categories: names of the prompts; the first has id 1.

    Returns:
        The number of images.
    """
    ids: dict[tuple[str, str], int] = {}

    def image_rows() -> Iterator[dict[str, Any]]:
        for i, row in enumerate(images, start=1):
            ids[(row["key"], row["version"])] = i
            yield {"id": i, "file_name": row["key"], "width": row["width"], "height": row["height"]}

    def annotations() -> Iterator[dict[str, Any]]:
        filled = (row for row in masks if row["area"])
        for i, row in enumerate(filled, start=1):
            yield {
                "id": i,
                "image_id": ids[(row["key"], row["version"])],
                "category_id": row["category_id"],
                "segmentation": {"size": [row["height"], row["width"]], "counts": row["rle"]},
                "area": row["area"],
                "bbox": row["bbox"],
                "score": row["score"],
                "iscrowd": 0,
            }

    named = ({"id": i, "name": name} for i, name in enumerate(categories, start=1))
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"info": {"description": "clipseg-kfp masks"},\n"categories": ')
        _array(stream, named)
        stream.write(',\n"images": ')
        count = _array(stream, image_rows())
        stream.write(',\n"annotations": ')
        _array(stream, annotations())
        stream.write("}\n")
    return count


def _array(stream: IO[str], rows: Iterable[dict[str, Any]]) -> int:
    stream.write("[")
    count = 0
    for row in rows:
        stream.write(",\n" if count else "\n")
        json.dump(row, stream, ensure_ascii=False)
        count += 1
    stream.write("]")
    return count
