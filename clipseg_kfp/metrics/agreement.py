"""Compares one mask, and the probabilities that it was cut from, with ground truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.masks.raster import Mask, decode_rle
from clipseg_kfp.metrics import Confusion, Histogram, boundary_iou
from clipseg_kfp.truth import Truth
from clipseg_kfp.views import Box, Field, Merger


@dataclass(frozen=True)
class Comparison:
    """Agreement of one prompt in one image.

    Attributes:
        counts: pixels of the mask as it was written.
        boundary: boundary IoU of that mask; ``None`` where there is no outline.
        histogram: of the probabilities; empty where there are none.
        width: of the ground truth in pixels: the size at which everything is compared.
        height: of the ground truth in pixels.
    """

    counts: Confusion
    boundary: float | None
    histogram: Histogram
    width: int
    height: int


def compare(row: dict[str, Any], score: dict[str, Any] | None, truth: Truth) -> Comparison:
    """Compares at the ground truth's size, as the paper does.

    Probabilities are resized bilinearly, masks by their nearest pixels.

    Args:
        row: of ``records.MASKS``.
        score: of ``records.SCORES``, of the same image and prompt.
        truth: of the same.
    """
    height, width = truth.mask.shape
    counts, histogram = Confusion(), Histogram()
    mask = _mask(row, width, height)
    counts.add(mask, truth.mask, truth.valid)
    boundary = boundary_iou(mask, truth.mask, truth.valid)
    del mask
    if score is not None:
        for columns, values in _field(score, row["width"], row["height"], width, height):
            valid = None if truth.valid is None else truth.valid[:, columns]
            histogram.add(values, truth.mask[:, columns], valid)
    return Comparison(counts, boundary, histogram, width, height)


def _mask(row: dict[str, Any], width: int, height: int) -> Mask:
    mask = decode_rle(row["rle"], row["width"], row["height"])
    if mask.shape == (height, width):
        return mask
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def _field(score: dict[str, Any], width: int, height: int, to_width: int, to_height: int) -> Field:
    """The probabilities at the ground truth's size."""
    boxes: list[Box] = [(left, top, right, bottom) for left, top, right, bottom in score["boxes"]]
    flat = np.frombuffer(score["maps"], np.uint8)
    side = math.isqrt(flat.size // len(boxes))
    maps = list(flat.reshape(len(boxes), side, side))
    if (width, height) == (to_width, to_height):
        return Merger(boxes, width, height).field(maps)
    if len(boxes) == 1:  # straight from the model's size
        return Merger([(0, 0, to_width, to_height)], to_width, to_height).field(maps)
    whole = np.empty((height, width), np.float32)
    for columns, values in Merger(boxes, width, height).field(maps):
        whole[:, columns] = values
    resized: NDArray[Any] = cv2.resize(whole, (to_width, to_height), interpolation=cv2.INTER_LINEAR)
    return Field(to_width, to_height, lambda columns: resized[:, columns])
