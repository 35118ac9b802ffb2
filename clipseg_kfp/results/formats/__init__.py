"""Annotation files in the formats that people work with.

Every function takes rows of ``records.IMAGES`` and ``records.MASKS`` as streams, in the order of the results, and
returns the number of images (for a CSV file: of rows) that it wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any, get_args

from clipseg_kfp.options.groups import Format
from clipseg_kfp.results.formats.coco import export_coco
from clipseg_kfp.results.formats.labelstudio import export_labelstudio
from clipseg_kfp.results.formats.polygons import TOLERANCE
from clipseg_kfp.results.formats.rows import Categories, Row
from clipseg_kfp.results.formats.tables import export_csv
from clipseg_kfp.results.formats.yolo import export_yolo

__all__ = [
    "NAMES",
    "TOLERANCE",
    "export_coco",
    "export_csv",
    "export_labelstudio",
    "export_named",
    "export_yolo",
    "file_names",
]

_OTHER_FILES = {"csv": "masks.csv", "yolo": "annotations.yolo.zip"}

#: Every format by the name that people choose it by.
NAMES: tuple[str, ...] = ("coco", *get_args(Format))


def file_names(name: str) -> tuple[str, ...]:
    """The files that a run's results have in a format; the first one is the path to give to ``export_named``."""
    if name in _OTHER_FILES:
        return (_OTHER_FILES[name],)
    file = f"annotations.{name}.json"
    return (file, file.replace(".json", ".xml")) if name.startswith("labelstudio") else (file,)


def export_named(
    name: str,
    path: Path,
    images: Iterable[Row],
    masks: Iterable[Row],
    categories: Categories,
    *,
    instances: Container[int] = (),
    tolerance: float = TOLERANCE,
    url: Callable[[Row], str] = lambda image: str(image["uri"]),
) -> int:
    """Writes one of the formats ``NAMES``, which ignores the arguments that it does not need.

    Args:
        name: of the format.
        path: the file to write.
        images: rows of ``records.IMAGES``.
        masks: rows of ``records.MASKS`` in the same order of images.
        categories: ids and names.
        instances: ids of categories whose masks are written region by region.
        tolerance: how far polygons may deviate, in pixels.
        url: where Label Studio finds the image of a row.

    Returns:
        What the format's own function returns.

    Raises:
        ParameterError: as that function.
    """
    if name == "csv":
        return export_csv(path, masks)
    if name == "yolo":
        return export_yolo(path, images, masks, categories)
    shapes: dict[str, Any] = {
        "as_polygons": name.endswith("-polygons"), "instances": instances, "tolerance": tolerance
    }  # fmt: skip
    if name.startswith("coco"):
        return export_coco(path, images, masks, categories, **shapes)
    return export_labelstudio(path, images, masks, categories, url=url, **shapes)
