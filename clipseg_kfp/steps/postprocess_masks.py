"""Turns probabilities into masks at the source's size, writes them to the bucket and measures them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp import records
from clipseg_kfp.masks.raster import LabelMap, mask_png, overlay_jpeg, palette, shrink
from clipseg_kfp.naming import digest, distinct_segments, image_folder
from clipseg_kfp.options import Outputs
from clipseg_kfp.prompts import Row
from clipseg_kfp.report.pictures import heat_jpeg, heat_levels
from clipseg_kfp.report.selection import HeatChoice, Shortlist, margin
from clipseg_kfp.results import Results
from clipseg_kfp.results.formats.probability import encode_levels, to_levels
from clipseg_kfp.results.layout import content_key
from clipseg_kfp.results.plan import FinishedShard, write_finished
from clipseg_kfp.results.shard_tables import write_part
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import say, track
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.steps import boundary
from clipseg_kfp.steps.artifacts import EncodedPrompts, PackedViews, Probabilities, ShardMasks
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.storage import open_folder
from clipseg_kfp.views import Box, Field, FieldLabelMap
from clipseg_kfp.views.to_masks import PromptMask, make_masks

STEP = "postprocess_masks"
BYTES_AT_ONCE = 960_000_000


@dataclass
class _Work:
    """One image with the maps of its views, uint8 (V, S, S) per prompt, and its preview."""

    image: int
    row: dict[str, Any]
    boxes: list[Box]
    maps: dict[str, NDArray[np.uint8]]
    preview: bytes


@dataclass
class _Done:
    image: int
    row: dict[str, Any]
    masks: list[dict[str, Any]]
    preview: bytes
    overlay: bytes
    heats: list[tuple[str, NDArray[np.uint8]]]
    scores: list[dict[str, Any]]


@timed(STEP, "masks", "probabilities")
def run(
    *,
    views: Path,
    probabilities: Path,
    encoded_prompts: Path,
    output_uri: str,
    job_id: str = "",
    masks: Path,
    outputs: Outputs | None = None,
    endpoint: str = "",
) -> int:
    """Writes masks to the bucket, and tables of images and masks and a small gallery into ``masks``.

    The shard's rows go to the bucket, too, after all its masks, under names that derive from their content: a
    repeated attempt writes the same objects, and a later run takes the images over if this one is never committed.

    Args:
        views: preprocess_images' output.
        probabilities: segment_images' output.
        encoded_prompts: encode_prompts' output.
        output_uri: where results go.
        job_id: names the run where ``outputs.run_id`` is empty; without both, the results do not tell that the
            shard is done.
        masks: output folder.
        outputs: what is written besides masks, and the run's name in the results.
        endpoint: S3 endpoint URL.

    Returns:
        The number of masks.

    Raises:
        StorageError: the output cannot be written.
    """
    cv2.setNumThreads(1)  # the pool below uses the cores
    outputs, prompts = outputs or Outputs(), EncodedPrompts(encoded_prompts)
    packed, maps, target = PackedViews(views), Probabilities(probabilities), ShardMasks(masks)
    results = Results(open_folder(output_uri, endpoint), prompts.configuration())
    rows = list(records.read_parquet(packed.images_path))
    for image, detail in maps.failed().items():
        rows[image] = boundary.quarantined(rows[image], "failed", detail)
    table = prompts.rows()
    size = prompts.facts().image_size
    shades = palette(max(prompt.id for prompt in table))
    colors = {prompt.id: shades[prompt.id - 1] for prompt in table}
    given = sum(row["status"] == "done" for row in rows)

    base = [prompt.name for prompt in table if prompt.expression is None]
    counts = _view_counts(packed.views_path, len(rows))
    map_bytes = int(counts.max(initial=0)) * len(base) * size**2
    finished = ordered_map(
        lambda work: _finish_or_set_aside(work, results, table, outputs, colors),
        _work(packed, maps, rows, base, size, counts),
        workers=_workers(rows, map_bytes),
        ahead=2 if counts.max(initial=0) == 1 else 0,
    )

    def mask_rows() -> Iterator[dict[str, Any]]:
        for item in track(STEP, finished, given):
            rows[item.image] = item.row
            if item.overlay:
                pictures.add(
                    (item.row["key"], item.row["version"]),
                    partial(_pictures, item),
                    min(margin(row) for row in item.masks),
                    truth=bool(item.row["ground_truth"]),
                )
            for row in item.scores:
                scores.append(row)
            yield from item.masks

    pictures = Shortlist()
    # A row of many views is large: one at a time.
    with records.ArrowWriter(target.scores_path, records.SCORES, 1, compression="zstd") as scores:
        count = records.write_parquet(target.masks_path, records.MASKS, mask_rows())
    with records.ArrowWriter(target.gallery_path, records.GALLERY) as gallery:
        for row in pictures.rows():
            gallery.append(row)
    records.write_parquet(target.images_path, records.IMAGES, rows)
    done = sum(row["status"] == "done" for row in rows)
    target.take_engine(maps)
    part = write_part(results, target.masks_path, rows, target.engine())
    run = outputs.run_id or job_id
    if run and (shard := packed.shard()):
        write_finished(results, run, FinishedShard(shard, len(rows), done, len(rows) - done, count, part))
    say(STEP, f"{count:,} masks of {done:,} images")
    return count


def handover(count: int) -> Handover:
    """The number of masks, for the UI."""
    return Handover(metadata={"masks": {"masks": count}})


def _pictures(item: _Done) -> dict[str, Any]:
    """The row of ``records.GALLERY``."""
    return {
        **{name: item.row[name] for name in ("key", "version")},
        **{name: getattr(item, name) for name in ("preview", "overlay")},
        "heats": [{"prompt": prompt, "jpeg": heat_jpeg(levels)} for prompt, levels in item.heats],
    }


def _workers(rows: list[dict[str, Any]], map_bytes: int) -> int:
    """Images at once: as many as fit about 1 GB; a larger one is worked on alone.

    A pixel takes up to 16 bytes: two float32 maps (the prompt's and the best so far), a label of 2 bytes, the mask,
    the pixels where its prompt is the best, and for a time the mask's other forms (column-major, PNG). Large images,
    whose maps exist in strips, take half of that. The maps of an image's views count twice, since logic makes more.
    """
    largest = max((row["width"] * row["height"] for row in rows), default=0)
    return max(1, min(max(4, 2 * cpu_limit()), BYTES_AT_ONCE // max(16 * largest + 2 * map_bytes, 1)))


def _view_counts(path: Path, images: int) -> NDArray[np.intp]:
    """The number of views of each image; no other column is read."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        batches = [reader.get_batch(i).column("image").to_numpy() for i in range(reader.num_record_batches)]
        return np.bincount(np.concatenate(batches) if batches else [], minlength=images)


def _work(
    views: PackedViews,
    probabilities: Probabilities,
    rows: list[dict[str, Any]],
    base: list[str],
    size: int,
    counts: NDArray[np.intp],
) -> Iterator[_Work]:
    done = {image for image, row in enumerate(rows) if row["status"] == "done"}
    previews, maps = (
        (value for value in values if value[0] in done)
        for values in (
            _values(views.previews_path, "jpeg"),
            _values(probabilities.maps_path, "probability", "box"),
        )
    )
    for (image, group), (shown, preview, _) in zip(groupby(maps, key=itemgetter(0)), previews, strict=True):
        if image != shown:
            raise AssertionError(f"previews and probabilities are out of step at image {image}")
        levels = np.empty((len(base), counts[image], size, size), np.uint8)
        boxes: list[Box] = []
        for i, (_, value, box) in enumerate(group):  # the prompts of a view follow each other
            view, prompt = divmod(i, len(base))
            levels[prompt, view] = records.unpack_map(value, size)
            if not prompt:
                boxes.append(tuple(box))
        yield _Work(image, rows[image], boxes, dict(zip(base, levels, strict=True)), preview.to_pybytes())
        del levels  # before those of the next image are made


def _values(path: Path, column: str, *others: str) -> Iterator[tuple[int, pa.Buffer, Any]]:
    """Yields the image of each row, its large value as a slice of the batch, and another column's value."""
    for batch in records.read_arrow(path):
        values = batch.column(column)
        _, offsets, data = values.buffers()
        ends = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1].tolist()
        yield from zip(
            batch.column("image").to_pylist(),
            (data.slice(start, stop - start) for start, stop in pairwise(ends)),
            batch.column(others[0]).to_pylist() if others else repeat(None, batch.num_rows),
            strict=True,
        )


def _finish_or_set_aside(work: _Work, *how: Any) -> _Done:
    """Whatever an image raises sets it aside; of its objects that are written by then, no table knows."""
    try:
        return _finish(work, *how)
    except boundary.NOT_OF_ONE_IMAGE:
        raise
    except Exception as error:
        return _Done(work.image, boundary.failure(work.row, STEP, error), [], b"", b"", [], [])


def _finish(
    work: _Work,
    results: Results,
    prompts: Sequence[Row],
    options: Outputs,
    colors: dict[int, NDArray[np.uint8]],
) -> _Done:
    row = dict(work.row)
    width, height = row["width"], row["height"]
    place = image_folder(row["key"], row["version"])
    shown = [prompt for prompt in prompts if not prompt.hidden]
    names = distinct_segments(prompt.name for prompt in shown)
    labels: LabelMap | None = None
    with Image.open(io.BytesIO(work.preview)) as header:
        small_size = header.size
    measured = {truth["prompt"] for truth in row["ground_truth"]}
    layers, mask_rows, scores = [], [], []
    heats = HeatChoice(measured)
    for name, done in zip(names, make_masks(prompts, work.maps, work.boxes, width, height), strict=True):
        prompt, measures = done.prompt, done.measures
        png = mask_png(done.mask)
        written = _written(results, "mask", f"masks/{place}/{name}", png, ".png")
        if options.label_maps:
            labels = labels or _label_map(done.field, max(prompt.id for prompt in shown))
            if measures.area:
                _add_label(labels, done)
        if options.overlays and measures.area:
            layers.append((shrink(done.mask, *small_size), colors[prompt.id]))
        probability: dict[str, Any] = {"probability": ""}
        if options.probability_bits:
            stem = f"probabilities/{options.probability_bits}-bit/{place}/{name}"
            probability = _written(
                results, "probability", stem, _picture(done.field, options.probability_bits), ".png"
            )
        if prompt.name in measured:
            about = {"key": row["key"], "version": row["version"], "prompt": prompt.name}
            scores.append({**about, "boxes": work.boxes, "maps": done.maps.tobytes()})
        mask_rows.append(
            {
                **{column: row[column] for column in ("source", "key", "version", "width", "height")},
                "prompt": prompt.name,
                "category_id": prompt.id,
                "threshold": done.threshold,
                "area": measures.area,
                "coverage": measures.area / (width * height),
                "bbox": measures.bbox,
                "rle": measures.rle,
                "score": measures.score,
                "mean_probability": measures.mean,
                "max_probability": measures.maximum,
                **written,
                **probability,
            }
        )
        if options.overlays:
            heats.add(mask_rows[-1], partial(heat_levels, done.maps, work.boxes, width, height))
    overlay = b""
    if labels:
        # A folder of their own: prompts may have any name.
        row.update(_written(results, "label_map", f"labels/{place}", labels.png(), ".png"))
    if options.overlays:
        overlay = overlay_jpeg(work.preview, layers)
        row.update(_written(results, "overlay", f"overlays/{place}", overlay, ".jpg"))
    return _Done(work.image, row, mask_rows, work.preview, overlay, heats.chosen(), scores)


def _written(results: Results, column: str, stem: str, data: bytes, suffix: str) -> dict[str, Any]:
    """Writes an object with its content's digest in its name; returns its columns of the tables."""
    key = content_key(stem, data, suffix)
    results.write(key, data)
    return {column: key, f"{column}_sha256": digest(data, 64), f"{column}_bytes": len(data)}


def _add_label(labels: LabelMap, done: PromptMask) -> None:
    if isinstance(labels, FieldLabelMap):
        labels.add_field(done.prompt.id, done.mask, done.field)
        return
    for _, values in done.field:  # one strip
        labels.add(done.prompt.id, done.mask, values)


def _label_map(field: Field, count: int) -> LabelMap:
    kind = LabelMap if field.strips == 1 else FieldLabelMap
    return kind(field.width, field.height, count)


def _picture(field: Field, bits: int) -> bytes:
    """The map as a PNG; only its levels exist as a whole."""
    depth: Literal[8, 16] = 8 if bits == 8 else 16
    levels = np.empty((field.height, field.width), np.uint8 if depth == 8 else np.uint16)
    for columns, values in field:
        levels[:, columns] = to_levels(values, depth)
    return encode_levels(levels)
