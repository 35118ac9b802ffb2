"""Turns probabilities into masks at the source's size, writes them to the bucket and measures them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp import masks, records
from clipseg_kfp.concurrency import ordered_map
from clipseg_kfp.naming import digest, distinct_segments, image_folder
from clipseg_kfp.progress import say, track
from clipseg_kfp.resources import cpu_limit
from clipseg_kfp.results import Results
from clipseg_kfp.steps.encode_prompts import prompt_rows, read_facts_of
from clipseg_kfp.steps.preprocess_images import IMAGES, PREVIEWS
from clipseg_kfp.steps.segment_images import ENGINE, PROBABILITIES
from clipseg_kfp.storage import open_folder

STEP = "postprocess_masks"
MASKS, GALLERY = "masks.parquet", "gallery.arrow"
GALLERY_PER_SHARD = 24
PIXELS_AT_ONCE = 60_000_000


@dataclass
class _Work:
    """One image with its maps, uint8 (P, S, S), and its preview."""

    row: dict[str, Any]
    maps: NDArray[np.uint8]
    preview: bytes


@dataclass
class _Done:
    row: dict[str, Any]
    masks: list[dict[str, Any]]
    preview: bytes
    overlay: bytes


def run(
    *,
    views: Path,
    probabilities: Path,
    prompts: Path,
    target: Path,
    output_uri: str,
    config: str,
    label_maps: bool = True,
    overlays: bool = True,
    endpoint: str = "",
) -> int:
    """Writes masks to the bucket; tables of images and masks and a small gallery into ``target``.

    The shard's rows go to the bucket as well, after all its masks, under a name that derives from their
    content: a repeated attempt writes what is there already.

    Args:
        views: preprocess_images' output.
        probabilities: segment_images' output.
        prompts: encode_prompts' output.
        target: output folder.
        output_uri: where results go.
        config: the configuration's digest.
        label_maps: write a palette map of the most probable prompt for each image.
        overlays: write a preview with all masks painted in for each image.
        endpoint: S3 endpoint URL.

    Returns:
        The number of masks.

    Raises:
        StorageError: the output cannot be written.
    """
    cv2.setNumThreads(1)  # the pool below uses the cores
    results = Results(open_folder(output_uri, endpoint), config)
    rows = list(records.read_parquet(views / IMAGES))
    table = prompt_rows(prompts)
    size = read_facts_of(prompts).image_size
    colors = masks.palette(len(table))
    done = sum(row["status"] == "done" for row in rows)

    def finish(work: _Work) -> _Done:
        return _finish(work, results, table, colors, label_maps=label_maps, overlays=overlays)

    finished = ordered_map(finish, _work(views, probabilities, rows, size), workers=_workers(rows))
    part = PartName()

    def mask_rows() -> Iterator[dict[str, Any]]:
        pictures = 0
        for item in track(STEP, finished, done):
            if item.overlay and pictures < GALLERY_PER_SHARD:
                names = {name: item.row[name] for name in ("key", "version")}
                gallery.append({**names, "preview": item.preview, "overlay": item.overlay})
                pictures += 1
            for row in item.masks:
                part.add(row)
                yield row

    with records.ArrowWriter(target / GALLERY, records.GALLERY) as gallery:
        count = records.write_parquet(target / MASKS, records.MASKS, mask_rows())
    records.write_parquet(target / IMAGES, records.IMAGES, rows)
    shutil.copyfile(probabilities / ENGINE, target / ENGINE)  # for the manifest
    if count:
        results.upload(part.key, target / MASKS)
    say(STEP, f"{count:,} masks of {done:,} images")
    return count


def _workers(rows: list[dict[str, Any]]) -> int:
    """Images worked on at once: as many as fit about 1 GB.

    A pixel takes up to 16 bytes: two float32 maps (the prompt's and the best so far), the probabilities
    inside the mask, a label of 2 bytes, the mask, and the pixels where its prompt is the best. The mask's
    other forms (column-major, as a picture) come and go when those probabilities are not there.
    """
    largest = max((row["width"] * row["height"] for row in rows), default=0)
    return max(1, min(max(4, 2 * cpu_limit()), PIXELS_AT_ONCE // max(largest, 1)))


class PartName:
    """Names a shard's part after the rows it holds, taken one by one and in order.

    Attributes:
        rows: how many there were.
    """

    COLUMNS = ("key", "version", "prompt", "mask_sha256")

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        self.rows = 0

    def add(self, row: dict[str, Any]) -> None:
        """Takes the next row of ``records.MASKS``; of its columns only ``COLUMNS`` matter."""
        self._total.update(json.dumps([row[name] for name in self.COLUMNS]).encode() + b"\n")
        self.rows += 1

    @property
    def key(self) -> str:
        """The part's key below the configuration's folder."""
        return f"parts/{self._total.hexdigest()[:16]}.parquet"


def _work(views: Path, probabilities: Path, rows: list[dict[str, Any]], size: int) -> Iterator[_Work]:
    previews = _values(views / PREVIEWS, "jpeg")
    maps = _values(probabilities / PROBABILITIES, "probability")
    for (image, group), (shown, preview) in zip(groupby(maps, key=itemgetter(0)), previews, strict=True):
        if image != shown:
            raise AssertionError(f"previews and probabilities are out of step at image {image}")
        found = [np.frombuffer(value, np.uint8).reshape(size, size) for _, value in group]
        yield _Work(rows[image], np.stack(found), preview.to_pybytes())


def _values(path: Path, column: str) -> Iterator[tuple[int, pa.Buffer]]:
    """Yields the image of each row and its large value, uncopied; the value keeps its batch in memory."""
    for batch in records.read_arrow(path):
        yield from zip(
            batch.column("image").to_pylist(),
            (value.as_buffer() for value in batch.column(column)),
            strict=True,
        )


def _finish(
    work: _Work,
    results: Results,
    prompts: list[dict[str, Any]],
    colors: NDArray[np.uint8],
    *,
    label_maps: bool,
    overlays: bool,
) -> _Done:
    row = work.row
    width, height = row["width"], row["height"]
    place = image_folder(row["key"], row["version"])
    names = distinct_segments(prompt["name"] for prompt in prompts)
    labels = masks.LabelMap(width, height, len(prompts)) if label_maps else None
    with Image.open(io.BytesIO(work.preview)) as header:
        small_size = header.size
    layers, mask_rows = [], []
    # One full-resolution map at a time, all in one place: a 50-megapixel source has 200 MB of them for each
    # prompt, and the system takes longer to hand out such memory than the pixels take to compute.
    probability = np.empty((height, width), np.float32)
    mask = np.empty((height, width), np.bool_)
    for i, (prompt, small) in enumerate(zip(prompts, work.maps, strict=True)):
        masks.upsample(small, width, height, out=probability)
        np.greater_equal(probability, np.float32(prompt["threshold"]), out=mask)
        measures = masks.measure(mask, probability)
        png = masks.mask_png(mask)
        key = f"masks/{place}/{names[i]}.png"
        results.write(key, png)
        if labels and measures.area:
            labels.add(i + 1, mask, probability)
        if overlays and measures.area:
            layers.append((masks.shrink(mask, *small_size), colors[i]))
        mask_rows.append(
            {
                **{name: row[name] for name in ("source", "key", "version", "width", "height")},
                "prompt": prompt["name"],
                "category_id": i + 1,
                "threshold": prompt["threshold"],
                "area": measures.area,
                "coverage": measures.area / (width * height),
                "bbox": measures.bbox,
                "rle": measures.rle,
                "score": measures.score,
                "mean_probability": measures.mean,
                "max_probability": measures.maximum,
                "mask": key,
                "mask_sha256": digest(png, 64),
            }
        )
    overlay = b""
    if labels:
        row["label_map"] = f"labels/{place}.png"  # a folder of their own: prompts may have any name
        results.write(row["label_map"], labels.png())
    if overlays:
        row["overlay"] = f"overlays/{place}.jpg"
        overlay = masks.overlay_jpeg(work.preview, layers)
        results.write(row["overlay"], overlay)
    return _Done(row, mask_rows, work.preview, overlay)
