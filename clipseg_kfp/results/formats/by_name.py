"""Every format by the name that people choose it by."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from pathlib import Path

from clipseg_kfp.results.formats.coco import export_coco
from clipseg_kfp.results.formats.labelstudio import export_labelstudio
from clipseg_kfp.results.formats.polygons import TOLERANCE
from clipseg_kfp.results.formats.rows import Categories, Row
from clipseg_kfp.results.formats.tables import export_csv
from clipseg_kfp.results.formats.yolo import export_yolo

NAMES = ("coco", "coco-polygons", "yolo", "csv", "labelstudio", "labelstudio-polygons")


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
    """Writes a format of ``NAMES``; what it has no use for is not looked at.

    Args:
        name: of the format.
        path: the file to write.
        images: rows of ``records.IMAGES``.
        masks: rows of ``records.MASKS`` in the same order of images.
        categories: ids and names.
        instances: ids of categories whose masks are written a region at a time.
        tolerance: how far polygons may deviate, in pixels.
        url: where Label Studio finds the image of a row.

    Returns:
        What the format's own function returns.

    Raises:
        ParameterError: as that function.
    """
    polygons = name.endswith("-polygons")
    if name == "csv":
        return export_csv(path, masks)
    if name == "yolo":
        return export_yolo(path, images, masks, categories)
    if name.startswith("coco"):
        return export_coco(
            path,
            images,
            masks,
            categories,
            segmentation="polygons" if polygons else "rle",
            instances=instances,
            tolerance=tolerance,
        )
    return export_labelstudio(
        path,
        images,
        masks,
        categories,
        kind="polygon" if polygons else "brush",
        instances=instances,
        tolerance=tolerance,
        url=url,
    )
