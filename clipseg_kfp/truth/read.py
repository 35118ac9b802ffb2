"""From a reference to pixels."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from clipseg_kfp.dataset.ground_truth import LABELS, SHAPES, GroundTruth
from clipseg_kfp.errors import ClipsegKfpError, ObjectChangedError, ObjectUnreadableError
from clipseg_kfp.images.formats import ImageRejectedError
from clipseg_kfp.images.guarded import decode_labels, decode_mask
from clipseg_kfp.masks.raster import Mask
from clipseg_kfp.storage import ObjectTooLargeError, open_object

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

    def read(self, reference: GroundTruth, width: int, height: int) -> Truth:
        """Reads the ground truth that a reference names.

        Args:
            reference: not of kind ``unmatched``.
            width: of the image in pixels, for shapes that refer to it.
            height: of the image in pixels.

        Raises:
            UnusableTruthError: it cannot be read, though the store works; or it lies on its side, or has
                other proportions: it belongs to another picture, or to a part of this one.
            StorageError: the store fails as a whole.
        """
        try:
            truth = self._read(reference, width, height)
        except (
            *(ImageRejectedError, ObjectChangedError, ObjectTooLargeError, ObjectUnreadableError),
            *(ValueError, TypeError, KeyError),  # malformed shapes
        ) as error:
            raise UnusableTruthError(
                f"{reference.uri}: {getattr(error, 'message', error)}",
                getattr(error, "remedy", "") or "Correct it, or remove it from the ground truth.",
                code=getattr(error, "code", "truth_shape_malformed"),
                where=reference.uri,
            ) from error
        down, across = truth.mask.shape
        if same_shape(across, down, width, height):
            return truth
        turned = same_shape(down, across, width, height)
        raise UnusableTruthError(
            f"{reference.uri}: {across} x {down} pixels for an image of {width} x {height}: "
            + (
                "its EXIF orientation may have turned it."
                if turned
                else "it is of another image, or of a part."
            ),
            "Save the image upright, or turn the ground truth." if turned else "Replace it.",
            code="truth_turned" if turned else "truth_other_shape",
            where=reference.uri,
        )

    def _read(self, reference: GroundTruth, width: int, height: int) -> Truth:
        details = reference.details
        if reference.kind == SHAPES:
            return Truth(draw(details["shapes"], *(details["size"] or (height, width))))
        if reference.kind == LABELS:
            labels = self._labels(reference.uri)
            ignored = np.isin(labels, details["ignored"])
            return Truth(np.isin(labels, details["values"]), ~ignored if ignored.any() else None)
        return Truth(decode_mask(*self._picture(reference.uri)))

    def _labels(self, uri: str) -> NDArray[np.uint16]:
        with self._lock:
            if self._last is None or self._last[0] != uri:
                self._last = (uri, decode_labels(*self._picture(uri)))
            return self._last[1]

    def _picture(self, uri: str) -> tuple[bytes, str]:
        folder, key = open_object(uri, self._endpoint)
        return folder.read(key, limit=self._max_bytes), key


def same_shape(across: int, down: int, width: int, height: int) -> bool:
    """Tells whether two sizes have the same proportions, as an image and its ground truth have at any scale."""
    rounding = 0.5 / min(across, width) + 0.5 / min(down, height)
    return abs(math.log(across * height / (down * width))) <= SHAPE_TOLERANCE + rounding


def draw(shapes: Sequence[Any], height: int, width: int) -> Mask:
    """Draws the union of COCO's segmentations, bool (height, width).

    Args:
        shapes: each a list of flat polygons ``[x1, y1, x2, y2, …]``, or run lengths with ``counts`` (a list, or
            text) and ``size``; crowds too.
        height: in pixels.
        width: in pixels.

    Raises:
        ValueError: a shape of another kind or size.
    """
    parts = []
    for shape in shapes:
        if isinstance(shape, dict):
            if list(shape.get("size", ())) != [height, width]:
                raise ValueError(f"run lengths for {shape.get('size')} in an image of {[height, width]}")
            counts = shape["counts"]
            encoded = coco_mask.frPyObjects(shape, height, width) if isinstance(counts, list) else shape
            parts.append({"size": [height, width], "counts": encoded["counts"]})
        elif polygons := [points for points in shape if len(points) >= 6]:
            parts.extend(coco_mask.frPyObjects(polygons, height, width))
    if not parts:
        return np.zeros((height, width), bool)
    return np.asarray(coco_mask.decode(coco_mask.merge(parts)), dtype=bool)
