"""Label Studio's import format: tasks with predictions that people correct, and the labeling interface.

Documented at https://labelstud.io/guide/predictions and https://labelstud.io/tags/brushlabels.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.masks.cleanup import components
from clipseg_kfp.masks.raster import Mask, palette
from clipseg_kfp.naming import digest
from clipseg_kfp.results.formats.brush import encode_brush, encode_region
from clipseg_kfp.results.formats.polygons import polygons
from clipseg_kfp.results.formats.rows import (
    Categories,
    CategoryTable,
    Row,
    pixels,
    require_categories,
    text_file,
    with_masks,
    write_items,
)

Kind = Literal["brush", "polygon"]

_CONTROL, _OBJECT = "label", "image"  # names of the interface's tags
#: What XML 1.0 cannot hold, not even as a character reference.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def export_labelstudio(
    path: Path,
    images: Iterable[Row],
    masks: Iterable[Row],
    categories: Categories,
    *,
    as_polygons: bool = False,
    instances: Container[int] = (),
    tolerance: float = 1.0,
    url: Callable[[Row], str] = lambda image: str(image["uri"]),
) -> int:
    """Writes tasks with predictions as JSON, and beside them (``.xml``) the labeling interface that they need.

    Tasks are a stream: the masks of one image are in memory.

    Args:
        path: the JSON file to write.
        images: rows of ``records.IMAGES``; quarantined ones are left out.
        masks: rows of ``records.MASKS`` in the same order of images.
        categories: ids and names.
        as_polygons: outlines, one per 8-connected region, with holes joined in, in place of brushes, which are
            exact.
        instances: with brushes, ids of categories that get one brush per 8-connected region instead of one per
            mask.
        tolerance: how far polygons may deviate, in pixels, to save points.
        url: where Label Studio finds the image of a row; by default the image's URI.

    Returns:
        The number of images.

    Raises:
        ParameterError: there is no category, a mask's category is not in the list, two names give the same
            label, or the tables do not match.
    """
    kind: Kind = "polygon" if as_polygons else "brush"
    table = CategoryTable(categories)
    labels = label_names(table.names)

    def task(image: Row, rows: list[Row]) -> Row:
        results = [
            result
            for row in rows
            for result in _results(
                row, labels[table.index(row)], kind, row["category_id"] in instances, tolerance
            )
        ]
        score = sum(result["score"] for result in results) / len(results) if results else 0.0
        return {
            "data": {"image": url(image), "key": image["key"], "version": image["version"]},
            "predictions": [{"model_version": "clipseg-kfp", "score": score, "result": results}],
        }

    with text_file(path) as stream:
        tasks = (task(image, rows) for image, rows in with_masks(images, masks))
        count = write_items(stream, tasks, separators=(",", ":"))
        stream.write("\n")
    with text_file(path.with_suffix(".xml")) as stream:
        stream.write(labeling_config(table.names, kind))
    return count


def labeling_config(names: list[str], kind: Kind = "brush") -> str:
    """The labeling interface as XML, to paste into a project's settings.

    Args:
        names: of the categories.
        kind: of the masks.

    Raises:
        ParameterError: as ``label_names``.
    """
    tag = "BrushLabels" if kind == "brush" else "PolygonLabels"
    labels = [
        f'    <Label value={quoteattr(name)} background="#{bytes(color).hex()}"/>'
        for name, color in zip(label_names(names), palette(len(names)), strict=True)
    ]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{_OBJECT}" value="$image" zoom="true" zoomControl="true"/>',
            f'  <{tag} name="{_CONTROL}" toName="{_OBJECT}">',
            *labels,
            f"  </{tag}>",
            "</View>\n",
        ]
    )


def label_names(names: list[str]) -> list[str]:
    r"""The categories' names as labels: characters that XML cannot hold are escaped, like ``\x00``.

    Raises:
        ParameterError: there is no name, or two give the same label.
    """
    require_categories(names)
    labels = [_NOT_XML.sub(lambda match: ascii(match[0])[1:-1], name) for name in names]
    if len(set(labels)) < len(labels):
        raise ParameterError(
            "Two categories have the same name.", "Name each differently.", code="export_duplicate_category"
        )
    return labels


def _results(row: Row, label: str, kind: Kind, instances: bool, tolerance: float) -> Iterator[dict[str, Any]]:
    mask = pixels(row)
    values = _brushes(mask, instances) if kind == "brush" else _outlines(mask, tolerance)
    for number, value in enumerate(values):
        yield {
            "id": digest([row["key"], row["version"], row["category_id"], number], 10),
            "type": f"{kind}labels",
            "from_name": _CONTROL,
            "to_name": _OBJECT,
            "original_width": row["width"],
            "original_height": row["height"],
            "image_rotation": 0,
            "score": row["score"],
            "value": {**value, f"{kind}labels": [label]},
        }


def _brushes(mask: Mask, instances: bool) -> Iterator[dict[str, Any]]:
    height, width = mask.shape
    if not instances:
        yield {"format": "rle", "rle": encode_brush(mask)}
        return
    for region in components(mask):
        yield {"format": "rle", "rle": encode_region(region, width, height)}


def _outlines(mask: Mask, tolerance: float) -> Iterator[dict[str, Any]]:
    height, width = mask.shape
    for points in polygons(mask, tolerance=tolerance):
        yield {"points": (points / (width, height) * 100).round(5).tolist(), "closed": True}
