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
from clipseg_kfp.errors import ObjectChangedError, ObjectUnreadableError
from clipseg_kfp.images.formats import ImageRejectedError
from clipseg_kfp.images.guarded import decode_labels, decode_mask
from clipseg_kfp.storage import ObjectTooLargeError, open_object

MAX_BYTES = 100_000_000
SHAPE_TOLERANCE = 0.02  # of the ratio of sides, beside what rounding to whole pixels makes

Mask = NDArray[np.bool_]


class UnusableTruthError(Exception):
    """Ground truth that cannot be read; the message names it."""


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

    Pictures are decoded in workers (see ``decoding``), which a file may crash or hang.

    The last label map is kept: the classes of an image share it.

    Args:
        endpoint: S3 endpoint URL.
        max_bytes: of a picture.
    """

    def __init__(self, endpoint: str = "", max_bytes: int = MAX_BYTES) -> None:
        self._endpoint, self._max_bytes = endpoint, max_bytes
        self._lock = threading.Lock()
        self._last: tuple[str, NDArray[np.uint16]] | None = None

    def read(self, truth: GroundTruth, width: int, height: int) -> Truth:
        """Reads one.

        Args:
            truth: where it is; not of kind ``unmatched``.
            width: of the image, for shapes that refer to it.
            height: of the image.

        Raises:
            UnusableTruthError: it cannot be read, though the store works; or it lies on its side, or has
                other proportions: it belongs to another picture, or to a part of this one.
            StorageError: the store fails as a whole.
        """
        found = self._read(truth, width, height)
        down, across = found.mask.shape
        if same_shape(across, down, width, height):
            return found
        said = f"{truth.uri}: {across} x {down} pixels for an image of {width} x {height}"
        if same_shape(down, across, width, height):
            raise UnusableTruthError(
                f"{said}, which its EXIF orientation may have turned. Save the image upright, or turn the ground "
                "truth."
            )
        raise UnusableTruthError(
            f"{said}: the proportions differ, so it is of another picture, or of a part."
        )

    def _read(self, truth: GroundTruth, width: int, height: int) -> Truth:
        try:
            if truth.kind == SHAPES:
                details = truth.details
                return Truth(draw(details["shapes"], *(details["size"] or (height, width))))
            if truth.kind == LABELS:
                details, labels = truth.details, self._labels(truth.uri)
                ignored = np.isin(labels, details["ignored"])
                return Truth(np.isin(labels, details["values"]), ~ignored if ignored.any() else None)
            return Truth(decode_mask(*self._picture(truth.uri)))
        except (
            *(ImageRejectedError, ObjectChangedError, ObjectTooLargeError, ObjectUnreadableError),
            *(ValueError, TypeError, KeyError),  # shapes that are none
        ) as error:
            raise UnusableTruthError(f"{truth.uri}: {error}") from error

    def _labels(self, uri: str) -> NDArray[np.uint16]:
        with self._lock:
            if self._last is None or self._last[0] != uri:
                self._last = (uri, decode_labels(*self._picture(uri)))
            return self._last[1]

    def _picture(self, uri: str) -> tuple[bytes, str]:
        folder, key = open_object(uri, self._endpoint)
        return folder.read(key, limit=self._max_bytes), key


def same_shape(across: int, down: int, width: int, height: int) -> bool:
    """Says whether two sizes have the same proportions, as a picture and its ground truth have at any scale."""
    rounding = 0.5 / min(across, width) + 0.5 / min(down, height)
    return abs(math.log(across * height / (down * width))) <= SHAPE_TOLERANCE + rounding


def draw(shapes: Sequence[Any], height: int, width: int) -> Mask:
    """Draws the union of COCO's segmentations, bool (height, width).

    Args:
        shapes: each a list of flat polygons ``[x1, y1, x2, y2, …]``, or run lengths with ``counts`` (a list, or
            text) and ``size``. Crowds count like all others: they are pixels of the thing.
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
