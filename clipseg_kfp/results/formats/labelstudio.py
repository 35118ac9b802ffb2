"""Label Studio's import format: tasks with predictions that people correct, and the labeling interface.

Documented at https://labelstud.io/guide/predictions and https://labelstud.io/tags/brushlabels.
"""

from __future__ import annotations

import json
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
    check_choice,
    pixels,
    text_file,
    with_masks,
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
    kind: Kind = "brush",
    instances: Container[int] = (),
    tolerance: float = 1.0,
    annotations: bool = False,
    url: Callable[[Row], str] = lambda image: str(image["uri"]),
    model_version: str = "clipseg-kfp",
) -> int:
    """Writes tasks as JSON, and beside them (``.xml``) the labeling interface that they need.

    The tasks are a stream: one image's masks are in memory.

    Args:
        path: the JSON file to write.
        images: rows of ``records.IMAGES``; those of the quarantine are left out.
        masks: rows of ``records.MASKS`` in the same order of images.
        categories: ids and names.
        kind: ``"brush"`` for exact masks; ``"polygon"`` for outlines, one for each 8-connected region, with
            holes joined in.
        instances: with brushes, ids of categories that get a brush for each 8-connected region instead of one
            a mask.
        tolerance: how far polygons may deviate, in pixels, to save points.
        annotations: write annotations, which count as done, instead of predictions.
        url: where Label Studio finds the image of a row; the image's URI, if not given.
        model_version: name of the predictions.

    Returns:
        The number of images.

    Raises:
        ParameterError: there is no category, a mask's category is not in the list, two names give the same
            label, or the tables do not fit each other.
    """
    check_choice("kind", kind, ("brush", "polygon"))
    table = CategoryTable(categories)
    labels = label_names(table.names)
    count = 0
    with text_file(path) as stream:
        stream.write("[")
        for image, rows in with_masks(images, masks):
            results = [
                result
                for row in rows
                for result in _results(
                    row, labels[table.place(row)], kind, row["category_id"] in instances, tolerance
                )
            ]
            task = {
                "data": {"image": url(image), "key": image["key"], "version": image["version"]},
                **_wrap(results, annotations, model_version),
            }
            stream.write(",\n" if count else "\n")
            stream.write(json.dumps(task, ensure_ascii=False, separators=(",", ":")))
            count += 1
        stream.write("]\n")
    with text_file(path.with_suffix(".xml")) as stream:
        stream.write(labeling_config(table.names, kind))
    return count


def labeling_config(names: list[str], kind: Kind = "brush") -> str:
    """The labeling interface, as XML to paste into a project's settings.

    Args:
        names: of the categories.
        kind: as in ``export_labelstudio``.

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
    r"""The categories' names as labels: characters that XML cannot hold become ``\x00`` and the like.

    Raises:
        ParameterError: there is no name, or two give the same label.
    """
    labels = [_NOT_XML.sub(lambda found: ascii(found[0])[1:-1], name) for name in names]
    if not labels:
        raise ParameterError("There is no category, and Label Studio needs one.", "Give the run's prompts.")
    if len(set(labels)) < len(labels):
        raise ParameterError("Two categories have the same name.", "Name each differently.")
    return labels


def _wrap(results: list[Row], annotations: bool, model_version: str) -> dict[str, Any]:
    if annotations:
        return {"annotations": [{"result": results}]}
    score = sum(result["score"] for result in results) / len(results) if results else 0.0
    return {"predictions": [{"model_version": model_version, "score": score, "result": results}]}


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
    for part in components(mask):
        yield {"format": "rle", "rle": encode_region(part, width, height)}


def _outlines(mask: Mask, tolerance: float) -> Iterator[dict[str, Any]]:
    height, width = mask.shape
    for points in polygons(mask, tolerance=tolerance):
        yield {"points": (points / (width, height) * 100).round(5).tolist(), "closed": True}
