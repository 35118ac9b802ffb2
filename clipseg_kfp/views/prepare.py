"""Decodes an image in a worker and cuts its views there, so that only they come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clipseg_kfp.images.decode import ImageRejectedError, OpenedImage, open_image, preview_jpeg
from clipseg_kfp.images.guarded import HEADER_BYTES
from clipseg_kfp.options import Views
from clipseg_kfp.runtime.worker_main import memory_limited
from clipseg_kfp.views.resolution import meters_per_pixel
from clipseg_kfp.views.tiles import Box, cut, plan_views


@dataclass(frozen=True)
class Looks:
    """How one image is looked at.

    Attributes:
        size: side of the model's input in pixels.
        options: how images are looked at.
        max_megapixels: larger images are rejected, judged by their header.
        max_views: images that need more are rejected.
        views_limit: a sentence that tells people why, and what helps.
    """

    size: int
    options: Views
    max_megapixels: float
    max_views: int
    views_limit: str


@dataclass(frozen=True)
class Prepared:
    """A decoded image; its views are in a file.

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

    The worker may take the bytes that the header announces, and no more.

    Args:
        source: file of the image.
        name: its key, for messages.
        views: file to write: the views one after the other, each uint8 (size, size, 3).
        looks: how it is looked at.
        allowed: bytes that decoding may take now.

    Returns:
        The image; or, where decoding needs more than ``allowed``, the number of bytes, and nothing is done.

    Raises:
        ImageRejectedError: anything is wrong with the image.
        OSError: a file could not be read or written.
    """
    data = source.read_bytes()
    with memory_limited(HEADER_BYTES):
        opened = open_image(data, name)
        _check_size(opened, looks)
        meters = meters_per_pixel(opened.header)
        # Before any pixel is decoded, in case the image cannot be cut.
        boxes = plan_views(looks.options, opened.width, opened.height, looks.size, meters)
        if len(boxes) > looks.max_views:
            raise ImageRejectedError("too_large", f"It needs {len(boxes):,} views; {looks.views_limit}")
    if opened.peak_bytes > allowed:
        return opened.peak_bytes
    try:
        with memory_limited(opened.peak_bytes):
            image = opened.decode()
            preview = preview_jpeg(image)
            boxes = plan_views(looks.options, image.width, image.height, looks.size, meters)
            with views.open("wb") as stream:
                for box in boxes:
                    stream.write(cut(image, box, looks.size).data)
    except MemoryError as error:
        raise ImageRejectedError("too_large", "Its pixels take more memory than its header says.") from error
    except (ImageRejectedError, OSError):
        raise
    except Exception as error:  # libraries have limits of their own, such as OpenCV's
        words = " ".join(str(error).split())[:200]
        raise ImageRejectedError("failed", f"Its views cannot be cut: {words}") from error
    return Prepared(image.width, image.height, boxes, preview)


def _check_size(opened: OpenedImage, looks: Looks) -> None:
    if opened.width * opened.height > looks.max_megapixels * 1e6:
        raise ImageRejectedError(
            "too_large",
            f"The header says {opened.width} x {opened.height} pixels, "
            f"{opened.width * opened.height / 1e6:,.2f} million; "
            f"limits.max_megapixels allows {looks.max_megapixels:g} and can be raised.",
        )
