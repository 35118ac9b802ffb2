"""From a reference to pixels."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.dataset.ground_truth import LABELS, SHAPES, UNUSABLE, GroundTruth
from clipseg_kfp.errors import ClipsegKfpError, ObjectChangedError, ObjectUnreadableError
from clipseg_kfp.images.formats import ImageRejectedError
from clipseg_kfp.images.guarded import decode_labels, decode_mask
from clipseg_kfp.masks.raster import Mask
from clipseg_kfp.storage import ObjectTooLargeError, open_object
from clipseg_kfp.truth.shapes import MAX_PIXELS, ShapeError, draw, size_of

MAX_BYTES = 100_000_000
SHAPE_TOLERANCE = 0.02  # of the ratio of sides, beside what rounding to whole pixels makes


class UnusableTruthError(ClipsegKfpError):
    """Ground truth of one image that cannot be used; costs this image and no other."""

    code = "truth_unusable"


@dataclass(frozen=True)
class Truth:
    """Ground truth of one prompt in one image.

    Attributes:
        mask: bool (height, width).
        valid: the pixels that count, of the same size; ``None`` for all of them.
    """

    mask: Mask
    valid: Mask | None = None


class Reader:
    """Reads ground truth; safe to use from several threads.

    Pictures are decoded in guarded workers, since a file may crash or hang its decoder. The last label map is
    kept: the classes of an image share it.

    Args:
        endpoint: S3 endpoint URL.
        max_bytes: of a picture.
    """

    def __init__(self, endpoint: str = "", max_bytes: int = MAX_BYTES) -> None:
        self._endpoint, self._max_bytes = endpoint, max_bytes
        self._lock = threading.Lock()
        self._last: tuple[str, NDArray[np.uint16]] | None = None

    def read(self, reference: GroundTruth, width: int, height: int, max_pixels: float | None = None) -> Truth:
        """Reads the ground truth that a reference names.

        Args:
            reference: not of kind ``unmatched``.
            width: of the image in pixels, for shapes that refer to it.
            height: of the image in pixels.
            max_pixels: of the ground truth; ``None`` allows ``MAX_PIXELS``, or the image's own number.

        Raises:
            UnusableTruthError: it cannot be read, though the store works; or it lies on its side, or has
                other proportions: it belongs to another picture, or to a part of this one. The code
                ``truth_too_large`` tells of ``max_pixels``.
            StorageError: the store fails as a whole.
        """
        limit = max(MAX_PIXELS, width * height) if max_pixels is None else max_pixels
        try:
            return self._read(reference, width, height, limit)
        except (
            ImageRejectedError,
            ObjectChangedError,
            ObjectTooLargeError,
            ObjectUnreadableError,
            ShapeError,
        ) as error:
            raise UnusableTruthError(
                f"{reference.uri}: {getattr(error, 'message', error)}",
                getattr(error, "remedy", "") or "Correct it, or remove it from the ground truth.",
                code="truth_too_large" if error.code == "too_large" else error.code,
                where=reference.uri,
            ) from error

    def _read(self, reference: GroundTruth, width: int, height: int, limit: float) -> Truth:
        details = reference.details
        if reference.kind == UNUSABLE:
            raise _unusable(reference.uri, details["code"], details["what"], details["where"])
        if reference.kind == SHAPES:
            size = size_of(details["size"] or (height, width), limit)
            _check_proportions(reference.uri, *size, width, height)
            try:
                return Truth(draw(details["shapes"], *size, limit))
            except ShapeError as error:
                places = details.get("places") or ()
                place = places[error.index] if error.index is not None and error.index < len(places) else ""
                raise _unusable(reference.uri, error.code, str(error), place) from error
        if reference.kind == LABELS:
            labels = self._labels(reference.uri, limit)
            _check_proportions(reference.uri, labels.shape[0], labels.shape[1], width, height)
            ignored = np.isin(labels, details["ignored"])
            return Truth(np.isin(labels, details["values"]), ~ignored if ignored.any() else None)
        mask = decode_mask(*self._picture(reference.uri), max_pixels=limit)
        _check_proportions(reference.uri, mask.shape[0], mask.shape[1], width, height)
        return Truth(mask)

    def _labels(self, uri: str, limit: float) -> NDArray[np.uint16]:
        with self._lock:
            if self._last is None or self._last[0] != uri:
                self._last = (uri, decode_labels(*self._picture(uri), max_pixels=limit))
            labels = self._last[1]
        if labels.size > limit:
            raise ShapeError(f"{labels.size:,} pixels are more than the limit", "truth_too_large")
        return labels

    def _picture(self, uri: str) -> tuple[bytes, str]:
        folder, key = open_object(uri, self._endpoint)
        return folder.read(key, limit=self._max_bytes), key


def _unusable(uri: str, code: str, what: str, place: str = "") -> UnusableTruthError:
    where = f"{uri}, {place}" if place else uri
    remedy = "Correct it, or remove it from the ground truth."
    return UnusableTruthError(f"{where}: {what.rstrip('.')}.", remedy, code=code, where=place or uri)


def _check_proportions(uri: str, down: int, across: int, width: int, height: int) -> None:
    if same_shape(across, down, width, height):
        return
    turned = same_shape(down, across, width, height)
    raise UnusableTruthError(
        f"{uri}: {across} x {down} pixels for an image of {width} x {height}: "
        + ("its EXIF orientation may have turned it." if turned else "it is of another image, or of a part."),
        "Save the image upright, or turn the ground truth." if turned else "Replace it.",
        code="truth_turned" if turned else "truth_other_shape",
        where=uri,
    )


def same_shape(across: int, down: int, width: int, height: int) -> bool:
    """Tells whether two sizes have the same proportions, as an image and its ground truth have at any scale."""
    rounding = 0.5 / min(across, width) + 0.5 / min(down, height)
    return abs(math.log(across * height / (down * width))) <= SHAPE_TOLERANCE + rounding
