"""Decodes an image in a worker and cuts its views there, so that no more of it than they need comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clipseg_kfp.images.decode import ImageRejectedError, OpenedImage, open_image, preview_jpeg
from clipseg_kfp.images.guarded import HEADER_BYTES
from clipseg_kfp.runtime.worker_main import memory_limited
from clipseg_kfp.views.resolution import meters_per_pixel
from clipseg_kfp.views.tiles import Box, Tiling, cut


@dataclass(frozen=True)
class Looks:
    """How one image is looked at.

    Attributes:
        size: side of the model's input in pixels.
        tiling: how a large image is cut.
        meters_per_pixel: of the source; 0 takes what the file says.
        max_megapixels: larger images are rejected, judged by their header.
        max_views: images that need more are rejected; what limits them is said by ``views_limit``.
        views_limit: a sentence for people.
    """

    size: int
    tiling: Tiling
    meters_per_pixel: float
    max_megapixels: float
    max_views: int
    views_limit: str


@dataclass(frozen=True)
class Prepared:
    """What the model and people need of one image; the views themselves are in a file.

    Attributes:
        width: of the upright image in pixels.
        height: of the upright image in pixels.
        boxes: of the views, in their order in the file.
        preview: JPEG.
    """

    width: int
    height: int
    boxes: list[Box] = field(default_factory=list)
    preview: bytes = b""


def prepare(source: Path, name: str, views: Path, looks: Looks, allowed: int) -> Prepared | int:
    """Decodes an image and cuts its views; to be called through ``guarded``.

    The worker may then take the bytes that the header lets expect, and no more.

    Args:
        source: file of the image.
        name: its key, for messages.
        views: file to write: the views one after the other, each uint8 (size, size, 3).
        looks: see there.
        allowed: bytes that decoding may take now.

    Returns:
        What was made; or, where decoding wants more than ``allowed``, that many bytes, and nothing is done.

    Raises:
        ImageRejectedError: for whatever is wrong with the image.
        OSError: a file could not be read or written.
    """
    data = source.read_bytes()
    with memory_limited(HEADER_BYTES):
        opened = open_image(data, name)
        _check_size(opened, looks)
        meters = looks.meters_per_pixel or meters_per_pixel(opened.header)
        # Before any pixel is decoded: what cannot be cut as wanted is not worth the work.
        boxes = looks.tiling.plan(opened.width, opened.height, looks.size, meters)
        if len(boxes) > looks.max_views:
            raise ImageRejectedError("too_large", f"It needs {len(boxes):,} views; {looks.views_limit}")
    if opened.peak_bytes > allowed:
        return opened.peak_bytes
    try:
        with memory_limited(opened.peak_bytes):
            image = opened.decode()
            preview = preview_jpeg(image)
            boxes = looks.tiling.plan(image.width, image.height, looks.size, meters)
            with views.open("wb") as stream:
                for box in boxes:
                    stream.write(cut(image, box, looks.size).data)
    except MemoryError as error:
        raise ImageRejectedError("too_large", "Its pixels take more memory than its header says.") from error
    return Prepared(image.width, image.height, boxes, preview)


def _check_size(opened: OpenedImage, looks: Looks) -> None:
    if opened.width * opened.height > looks.max_megapixels * 1e6:
        raise ImageRejectedError(
            "too_large",
            f"The header says {opened.width} x {opened.height} pixels, "
            f"{opened.width * opened.height / 1e6:,.2f} million; "
            f"max_megapixels allows {looks.max_megapixels:g} and can be raised.",
        )
