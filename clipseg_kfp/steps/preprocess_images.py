"""Fetches a shard's images, decodes them safely and packs them for the model."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipseg_kfp import records
from clipseg_kfp.concurrency import ordered_map
from clipseg_kfp.errors import ObjectChangedError, ObjectUnreadableError, ParameterError
from clipseg_kfp.images import ImageRejectedError, open_image, preview_jpeg
from clipseg_kfp.naming import spell_out
from clipseg_kfp.progress import say, track
from clipseg_kfp.resources import cpu_limit
from clipseg_kfp.results.accounting import Quarantine
from clipseg_kfp.settings import Settings
from clipseg_kfp.steps.encode_prompts import read_facts_of
from clipseg_kfp.steps.fetch_dataset import SUMMARY, read_summary
from clipseg_kfp.storage import ObjectTooLargeError, open_object
from clipseg_kfp.views import Box, cut, meters_per_pixel

STEP = "preprocess_images"
IMAGES, VIEWS, PREVIEWS = "images.parquet", "views.arrow", "previews.arrow"

#: What all threads together may hold, so that large images wait for each other and a pod of 2 GiB does.
PIXEL_BYTES, FILE_BYTES = 900_000_000, 300_000_000


class Budget:
    """Bytes that threads share; one that wants more than there are at all gets them all, alone."""

    def __init__(self, total: int) -> None:
        self._total, self._free = total, total
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, cost: int) -> Iterator[None]:
        """Waits until so many bytes are free and holds them while the context is open."""
        cost = min(cost, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= cost)
            self._free -= cost
        try:
            yield
        finally:
            with self._changed:
                self._free += cost
                self._changed.notify_all()


@dataclass
class _Prepared:
    """One image, small: the full-size pixels are gone by the time it leaves its thread."""

    row: dict[str, Any]
    views: list[tuple[Box, bytes]] = field(default_factory=list)
    preview: bytes = b""


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
        QuarantineError: more bad images than the run may have.
        StorageError: a missing bucket, refused credentials or a store out of reach; a single bad object
            never does this.
    """
    for name, value in (("max_megapixels", max_megapixels), ("max_megabytes", max_megabytes)):
        if not 0 < value < math.inf:
            raise ParameterError(f"{name} is {value}.", "Give a positive number.")
    size, settings = read_facts_of(prompts).image_size, Settings.read(prompts)
    sources = list(records.read_parquet(dataset / "shards" / f"{shard}.parquet"))

    pixel_bytes, file_bytes = Budget(PIXEL_BYTES), Budget(FILE_BYTES)

    def prepare(source: dict[str, Any]) -> _Prepared:
        row = {**source, "status": "done", "reason": "", "detail": "", "width": 0, "height": 0,
               "label_map": "", "overlay": ""}  # fmt: skip
        try:
            if not source["version"]:
                raise ObjectChangedError(f"{source['uri']} does not exist.")
            if source["size"] > max_megabytes * 1e6:
                raise ImageRejectedError(
                    "too_large",
                    f"The file has {source['size'] / 1e6:,.2f} MB; "
                    f"max_megabytes allows {max_megabytes:g} and can be raised.",
                )
            # Always in this order, or two threads could wait for each other.
            with file_bytes.taken(source["size"]):
                opened = open_image(_read(source, endpoint, max_megabytes), source["key"])
                if opened.width * opened.height > max_megapixels * 1e6:
                    raise ImageRejectedError(
                        "too_large",
                        f"The header says {opened.width} x {opened.height} pixels, "
                        f"{opened.width * opened.height / 1e6:,.2f} million; "
                        f"max_megapixels allows {max_megapixels:g} and can be raised.",
                    )
                meters = settings.meters_per_pixel or meters_per_pixel(opened.header)
                # Before any pixel is decoded: what cannot be cut as wanted is not worth the work.
                settings.tiling.plan(opened.width, opened.height, size, meters)
                with pixel_bytes.taken(opened.peak_bytes):
                    image = opened.decode()
                    row.update(width=image.width, height=image.height)
                    boxes = settings.tiling.plan(image.width, image.height, size, meters)
                    views = [(box, cut(image, box, size).tobytes()) for box in boxes]
                    preview = preview_jpeg(image)
                    del image  # before others may take its place
        except ImageRejectedError as error:
            return _set_aside(row, error.code, error.detail)
        except ObjectChangedError as error:
            return _set_aside(row, "changed", error.message)
        except ObjectUnreadableError as error:
            return _set_aside(row, "unreadable", str(error))
        return _Prepared(row, views, preview)

    rows: list[dict[str, Any]] = []
    count = 0
    with (
        records.ArrowWriter(target / VIEWS, records.VIEWS) as view_file,
        records.ArrowWriter(target / PREVIEWS, records.PREVIEWS) as preview_file,
    ):
        # An image cut into hundreds of tiles is large when it is done, too: few of them wait at a time.
        workers, ahead = (2, 0) if settings.tiling.on else (max(4, 2 * cpu_limit()), 2)
        prepared = ordered_map(prepare, sources, workers, ahead)
        for item in track(STEP, prepared, len(sources)):
            if item.row["status"] == "done":
                for box, pixels in item.views:
                    view_file.append({"image": len(rows), "box": box, "pixels": pixels})
                preview_file.append({"image": len(rows), "jpeg": item.preview})
                count += len(item.views)
            else:
                say(STEP, f"quarantined {item.row['key']}: {item.row['reason']}, {item.row['detail']}")
            rows.append(item.row)
    records.write_parquet(target / IMAGES, records.IMAGES, rows)
    _check_quarantine(rows, dataset)
    return count


def _check_quarantine(rows: list[dict[str, Any]], dataset: Path) -> None:
    """Ends the run before the inference where one shard alone has too many bad images."""
    if not (dataset / SUMMARY).exists():  # shards that were not listed by fetch_dataset have no bound
        return
    quarantine, summary = Quarantine(), read_summary(dataset)
    for row in rows:
        quarantine.add(row)
    quarantine.check(summary.max_quarantined, summary.listed, where=" of one shard")


def _read(source: dict[str, Any], endpoint: str, max_megabytes: float) -> bytes:
    folder, key = open_object(source["uri"], endpoint)
    try:
        return folder.read(key, version=source["version"], limit=int(max_megabytes * 1e6))
    except ObjectTooLargeError as error:
        raise ImageRejectedError(
            "too_large", f"{error.message} max_megabytes sets it and can be raised."
        ) from error
    except ParameterError as error:  # a key that the folder refuses
        raise ObjectUnreadableError(error.message, error.remedy) from error


def _set_aside(row: dict[str, Any], reason: str, detail: str) -> _Prepared:
    return _Prepared({**row, "status": "quarantined", "reason": reason, "detail": spell_out(detail)})
