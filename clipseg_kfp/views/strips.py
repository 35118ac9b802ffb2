"""What post-processing takes from a full-resolution map, gathered strip by strip."""

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
    """Measures the probabilities inside a mask and over all.

    Sums are kept in float64, so they are more exact than those of one float32 array, not less.

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


def accumulate(field: Field, threshold: float) -> tuple[Mask, Sums]:
    """Cuts a mask and measures it in two passes, of which a small field computes one only."""
    mask = cut_mask(field, threshold)
    return mask, sum_up(field, mask)


class FieldLabelMap(LabelMap):
    """A label map that takes its prompts as fields.

    The best probability so far is kept in steps of 1 / 65535, two bytes a pixel: a prompt wins a pixel from
    an earlier one where it is higher by at least such a step.

    Args:
        width: of the image.
        height: of the image.
        count: how many prompts there are; decides the kind of PNG, so that all images of a run have one.
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
            # From 1: cleaning puts pixels into masks that have no probability; 0 is what no mask has.
            levels = np.ceil(values * np.float32(65534)).astype(np.uint16) + np.uint16(1)
            levels *= chosen
            best = self._levels[:, columns]
            np.copyto(self.labels[:, columns], category, where=levels > best)
            np.maximum(best, levels, out=best)
