"""Fetches a shard's images, decodes them safely and packs them for the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipseg_kfp import records
from clipseg_kfp.concurrency import ordered_map
from clipseg_kfp.errors import ObjectChangedError, ParameterError
from clipseg_kfp.images import ImageRejectedError, decode_image, preview_jpeg, to_model_input
from clipseg_kfp.naming import spell_out
from clipseg_kfp.progress import say, track
from clipseg_kfp.resources import cpu_limit
from clipseg_kfp.steps.encode_prompts import read_facts_of
from clipseg_kfp.storage import open_object

STEP = "preprocess_images"
IMAGES, VIEWS, PREVIEWS = "images.parquet", "views.arrow", "previews.arrow"


@dataclass
class _Prepared:
    """One image, small: the full-size pixels are gone by the time it leaves its thread."""

    row: dict[str, Any]
    pixels: bytes = b""
    preview: bytes = b""
    box: tuple[int, int, int, int] = field(default=(0, 0, 0, 0))


def run(
    *,
    dataset: Path,
    shard: str,
    prompts: Path,
    target: Path,
    max_megapixels: float = 50.0,
    max_megabytes: float = 100.0,
    endpoint: str = "",
) -> int:
    """Writes ``images.parquet``, ``views.arrow`` and ``previews.arrow`` into ``target``.

    Args:
        dataset: fetch_dataset's output.
        shard: name of the shard.
        prompts: encode_prompts' output; tells the model's input size.
        target: output folder.
        max_megapixels: larger images go to quarantine, judged by their header.
        max_megabytes: larger objects go to quarantine.
        endpoint: S3 endpoint URL.

    Returns:
        The number of views.

    Raises:
        ParameterError: a limit that is not positive.
        StorageError: the store fails as a whole; a single bad object never does this.
    """
    if not (0 < max_megapixels < math.inf and 0 < max_megabytes < math.inf):
        raise ParameterError(
            f"max_megapixels ({max_megapixels}) and max_megabytes ({max_megabytes}) must be positive numbers."
        )
    size = read_facts_of(prompts).image_size
    sources = list(records.read_parquet(dataset / "shards" / f"{shard}.parquet"))

    def prepare(source: dict[str, Any]) -> _Prepared:
        row = {**source, "status": "done", "reason": "", "detail": "", "width": 0, "height": 0,
               "label_map": "", "overlay": ""}  # fmt: skip
        try:
            if not source["version"]:
                raise ObjectChangedError(f"{source['uri']} does not exist.")
            folder, key = open_object(source["uri"], endpoint)
            if source["size"] > max_megabytes * 1e6:
                raise ImageRejectedError(
                    "too_large", f"{source['size']:,} bytes are more than {max_megabytes:g} MB"
                )
            data = folder.read(key, version=source["version"])
            image = decode_image(data, source["key"], max_pixels=int(max_megapixels * 1e6))
        except (ImageRejectedError, ObjectChangedError) as error:
            code, detail = (
                (error.code, error.detail)
                if isinstance(error, ImageRejectedError)
                else ("changed", error.message)
            )
            return _Prepared({**row, "status": "quarantined", "reason": code, "detail": spell_out(detail)})
        row.update(width=image.width, height=image.height)
        return _Prepared(
            row,
            to_model_input(image, size).tobytes(),
            preview_jpeg(image),
            (0, 0, image.width, image.height),
        )

    rows: list[dict[str, Any]] = []
    views = 0
    with (
        records.ArrowWriter(target / VIEWS, records.VIEWS) as view_file,
        records.ArrowWriter(target / PREVIEWS, records.PREVIEWS) as preview_file,
    ):
        prepared = ordered_map(prepare, sources, workers=max(4, 2 * cpu_limit()))
        for item in track(STEP, prepared, len(sources)):
            if item.row["status"] == "done":
                view_file.append({"image": len(rows), "box": item.box, "pixels": item.pixels})
                preview_file.append({"image": len(rows), "jpeg": item.preview})
                views += 1
            else:
                say(STEP, f"quarantined {item.row['key']}: {item.row['reason']}, {item.row['detail']}")
            rows.append(item.row)
    records.write_parquet(target / IMAGES, records.IMAGES, rows)
    return views
