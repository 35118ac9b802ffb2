"""Cuts masks from full-resolution maps and measures them, strip by strip."""

from __future__ import annotations

import cv2
import numpy as np

from clipseg_kfp.masks.raster import LabelMap, Mask, Sums
from clipseg_kfp.views.blend import Field


def cut_mask(field: Field, threshold: float) -> Mask:
    """Returns the pixels that reach the threshold (compared in float32), bool (height, width)."""
    mask = np.empty((field.height, field.width), bool)
    for columns, values in field:
        np.greater_equal(values, np.float32(threshold), out=mask[:, columns])
    return mask


def sum_up(field: Field, mask: Mask) -> Sums:
    """Measures the probabilities inside a mask and over the image; sums are float64.

    Args:
        field: at the mask's size.
        mask: bool (height, width); cut from the field, or cleaned after that.

    Raises:
        ValueError: mask and field differ in size.
    """
    if mask.shape != (field.height, field.width):
        raise ValueError(f"a mask of {mask.shape} for a field of {(field.height, field.width)}")
    area, inside, total, maximum = 0, 0.0, 0.0, 0.0
    for columns, values in field:
        chosen = mask[:, columns].view(np.uint8)
        count = cv2.countNonZero(np.ascontiguousarray(chosen))
        area += count
        inside += count * cv2.mean(values, mask=chosen)[0]
        total += cv2.sumElems(values)[0]
        maximum = max(maximum, float(values.max()))
    return Sums(area, inside / area if area else 0.0, total / mask.size, maximum)


class FieldLabelMap(LabelMap):
    """A label map whose prompts come as fields.

    The best probability so far is kept in steps of 1 / 65535, two bytes per pixel: a prompt wins a pixel from an
    earlier one where it is higher by at least one step.

    Args:
        width: of the image.
        height: of the image.
        count: number of prompts; it decides the kind of PNG, so that all images of a run have the same.
    """

    def __init__(self, width: int, height: int, count: int) -> None:
        super().__init__(width, height, count)
        self._levels = np.zeros((height, width), np.uint16)

    def add_field(self, category: int, mask: Mask, field: Field) -> None:
        """Gives a prompt the pixels of its mask where it is the most probable so far."""
        for columns, values in field:
            chosen = mask[:, columns]
            if not chosen.any():
                continue
            # From 1: cleaning adds pixels of probability 0 to masks; level 0 means that no mask has the pixel.
            levels = np.ceil(values * np.float32(65534)).astype(np.uint16) + np.uint16(1)
            levels *= chosen
            best = self._levels[:, columns]
            np.copyto(self.labels[:, columns], category, where=levels > best)
            np.maximum(best, levels, out=best)
