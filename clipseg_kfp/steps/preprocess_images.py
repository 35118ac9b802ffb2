"""Fetches a shard's images, decodes them safely and packs them for the model."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipseg_kfp import records
from clipseg_kfp.errors import ObjectChangedError, ObjectUnreadableError, ParameterError
from clipseg_kfp.images.decode import ImageRejectedError
from clipseg_kfp.images.guarded import guarded
from clipseg_kfp.options import Limits
from clipseg_kfp.results.counts import Quarantine
from clipseg_kfp.runtime.concurrency import ordered_map
from clipseg_kfp.runtime.progress import say, track
from clipseg_kfp.runtime.resources import cpu_limit
from clipseg_kfp.steps import boundary
from clipseg_kfp.steps.artifacts import EncodedPrompts, Listing, PackedViews
from clipseg_kfp.steps.handover import Handover
from clipseg_kfp.steps.timing import timed
from clipseg_kfp.storage import ObjectTooLargeError, open_object
from clipseg_kfp.views.prepare import Looks, Prepared, prepare

STEP = "preprocess_images"

#: Bytes of all threads together: large images wait for each other, and a pod of 2 GiB is enough.
PIXEL_BYTES, FILE_BYTES = 900_000_000, 300_000_000

#: Bytes of an image's maps in postprocess_masks, over all views and prompts, one byte per pixel. Logic between
#: prompts doubles them, and that step's pod has 2 GiB, too.
MAP_BYTES = 480_000_000


class Budget:
    """Bytes that threads share; a thread that asks for more than all gets all, alone."""

    def __init__(self, total: int) -> None:
        self._total, self._free = total, total
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, cost: int) -> Iterator[None]:
        """Waits until ``cost`` bytes are free and holds them while the context is open."""
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
class _Item:
    """One image without pixels: those exist in workers only, and its views in a file until they are packed."""

    row: dict[str, Any]
    made: Prepared | None = None
    views: Path = Path()


@timed(STEP, "views")
def run(
    *,
    dataset: Path,
    shard: str,
    encoded_prompts: Path,
    views: Path,
    limits: Limits | None = None,
    endpoint: str = "",
) -> int:
    """Writes views, previews, a table of images and the shard's name into ``views``; see ``artifacts.PackedViews``.

    Images are decoded in worker processes (see ``images.guarded``): a file that crashes or hangs its worker is
    quarantined as ``crashed`` or ``timeout``, and other images are not affected. Views wait in files, not in memory:
    a JPEG of 200 megapixels cut into 700 tiles takes at most 1.1 GiB, all processes together, and 1.8 GiB where it
    has to be rotated.

    Args:
        dataset: fetch_dataset's output.
        shard: name of the shard.
        encoded_prompts: encode_prompts' output; has the model's input size.
        views: output folder.
        limits: which images are too large; they are quarantined.
        endpoint: S3 endpoint URL.

    Returns:
        The number of views.

    Raises:
        QuarantineError: more bad images than the run may have.
        StorageError: a missing bucket, refused credentials or a store out of reach; never a single bad object.
    """
    limits, listing, packed = limits or Limits(), Listing(dataset), PackedViews(views)
    sources = list(records.read_parquet(listing.shard_path(shard)))
    looks = _looks(EncodedPrompts(encoded_prompts), limits)
    views.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    count = 0
    with (
        _spool(views / ".images") as spool,
        records.ArrowWriter(packed.views_path, records.VIEWS) as view_file,
        records.ArrowWriter(packed.previews_path, records.PREVIEWS) as preview_file,
    ):
        preparing = _Preparing(spool, looks, limits.max_megabytes, endpoint)
        # An image cut into hundreds of tiles is large when it is done, too: few of them wait at a time.
        threads, ahead = (2, 0) if looks.options.tiled else (max(4, 2 * cpu_limit()), 2)
        items = ordered_map(preparing, enumerate(sources), threads, ahead)
        for item in track(STEP, items, len(sources)):
            if item.made is None:
                say(STEP, f"quarantined {item.row['key']}: {item.row['reason']}, {item.row['detail']}")
            else:
                for box, pixels in zip(item.made.boxes, _views(item.views, looks.size), strict=True):
                    view_file.append({"image": len(rows), "box": box, "pixels": pixels})
                    count += 1
                preview_file.append({"image": len(rows), "jpeg": item.made.preview})
            rows.append(item.row)
    records.write_parquet(packed.images_path, records.IMAGES, rows)
    packed.write_shard(shard)
    _check_quarantine(rows, listing)
    return count


def handover(count: int) -> Handover:
    """The number of views, for the UI."""
    return Handover(metadata={"views": {"views": count}})


def _looks(prompts: EncodedPrompts, limits: Limits) -> Looks:
    size = prompts.facts().image_size
    asked = sum(row.expression is None for row in prompts.rows())
    most = max(1, MAP_BYTES // (asked * size**2))
    return Looks(
        size=size,
        options=prompts.views(),
        max_megapixels=limits.max_megapixels,
        max_views=most,
        views_limit=f"with {asked:,} prompts, {MAP_BYTES / 1e6:,.0f} MB hold the maps of {most:,}: "
        "take larger tiles or fewer prompts.",
    )


class _Preparing:
    """Makes the views of a source; called in threads, which fetch, wait for memory and wait for a worker."""

    def __init__(self, spool: Path, looks: Looks, max_megabytes: float, endpoint: str) -> None:
        self._spool, self._looks, self._max_megabytes, self._endpoint = spool, looks, max_megabytes, endpoint
        self._pixel_bytes, self._file_bytes = Budget(PIXEL_BYTES), Budget(FILE_BYTES)
        self._share = PIXEL_BYTES // cpu_limit()
        self._interrupted = False

    def __call__(self, numbered: tuple[int, dict[str, Any]]) -> _Item:
        number, source = numbered
        row = {**source, "status": "done", "reason": "", "detail": "", "width": 0, "height": 0,
               "label_map": "", "overlay": ""}  # fmt: skip
        views = self._spool / f"{number}.views"
        try:
            made = self._prepare(source, views)
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        except ImageRejectedError as error:
            views.unlink(missing_ok=True)  # a worker that ended early may have left it
            return _Item(boundary.quarantined(row, error.code, error.detail))
        except ObjectChangedError as error:
            return _Item(boundary.quarantined(row, "changed", error.message))
        except ObjectUnreadableError as error:
            return _Item(boundary.quarantined(row, "unreadable", str(error)))
        row.update(width=made.width, height=made.height)
        return _Item(row, made, views)

    def _prepare(self, source: dict[str, Any], views: Path) -> Prepared:
        if not source["version"]:
            raise ObjectChangedError(
                f"{source['uri']} does not exist.",
                "Bring it back, or list the source again.",
                where=source["key"],
            )
        if source["size"] > self._max_megabytes * 1e6:
            raise ImageRejectedError(
                "too_large",
                f"The file has {source['size'] / 1e6:,.2f} MB; "
                f"limits.max_megabytes allows {self._max_megabytes:g} and can be raised.",
            )
        file = views.with_suffix(".image")
        try:
            # Always in this order, or two threads might wait for each other.
            with self._file_bytes.taken(source["size"]):
                data = _read(source, self._endpoint, self._max_megabytes)
                with _named(file):
                    file.write_bytes(data)
                del data
                allowed = self._share
                while True:  # a second time where the image's header tells that it takes more
                    with self._pixel_bytes.taken(allowed):
                        if self._interrupted:  # while it waited
                            raise KeyboardInterrupt
                        with _named(views):
                            made = guarded(
                                prepare, file, source["key"], views, self._looks, allowed,
                                max_pixels=self._looks.max_megapixels * 1e6,
                            )  # fmt: skip
                    if isinstance(made, Prepared):
                        return made
                    allowed = made
        finally:
            file.unlink(missing_ok=True)


def _views(path: Path, size: int) -> Iterator[bytes]:
    """Reads the views of an image one by one, and removes the file."""
    with path.open("rb") as stream:
        while pixels := stream.read(3 * size**2):
            yield pixels
    path.unlink()


def _check_quarantine(rows: list[dict[str, Any]], listing: Listing) -> None:
    """Ends the run before the inference where one shard alone has too many bad images."""
    if not listing.is_complete():  # without a summary there is no bound
        return
    quarantine, summary = Quarantine(), listing.summary()
    for row in rows:
        quarantine.add(row)
    quarantine.check(Limits(max_quarantined=summary.max_quarantined), summary.listed, where=" of one shard")


@contextmanager
def _spool(folder: Path) -> Iterator[Path]:
    """An empty folder for files that workers read and write, for as long as the context is open."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Adds the file's name to errors, since that of a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.strerror is None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error


def _read(source: dict[str, Any], endpoint: str, max_megabytes: float) -> bytes:
    folder, key = open_object(source["uri"], endpoint)
    try:
        return folder.read(key, version=source["version"], limit=int(max_megabytes * 1e6))
    except ObjectTooLargeError as error:
        raise ImageRejectedError(
            "too_large", f"{error.message} limits.max_megabytes sets it and can be raised."
        ) from error
    except ParameterError as error:  # a key that the folder refuses
        raise ObjectUnreadableError(error.message, error.remedy) from error
