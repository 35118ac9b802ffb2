"""Small pictures to lay over a preview: a heat map, and the ground truth."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.masks.raster import Mask, palette, shrink
from clipseg_kfp.views import Box, Merger

HEAT_SIDE, TRUTH_SIDE = 176, 320  # pixels of the longer side


def fitting(width: int, height: int, side: int) -> tuple[int, int]:
    """The size of an image whose longer side is at most ``side``."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def heat_levels(maps: NDArray[np.uint8], boxes: Sequence[Box], width: int, height: int) -> NDArray[np.uint8]:
    """A small map of one prompt's probabilities, blended as for its mask.

    Args:
        maps: uint8 (V, S, S), 255 times the probability, one per view.
        boxes: of the views in the image.
        width: of the image in pixels.
        height: of the image in pixels.

    Returns:
        255 times the probability, uint8 (h, w), the longer side at most ``HEAT_SIDE``.
    """
    across, down = fitting(width, height, HEAT_SIDE)
    heat = np.empty((down, across), np.float32)
    small = _scaled(boxes, width, height, across, down)
    for columns, values in (small or Merger(boxes, width, height)).field(list(maps)):
        if small:
            heat[:, columns] = values
        else:  # from full size, a strip at a time
            start, stop = columns.start * across // width, -(-columns.stop * across // width)
            size = (stop - start, down)
            heat[:, start:stop] = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
    return np.asarray((heat.clip(0, 1) * 255).round(), np.uint8)


def _scaled(boxes: Sequence[Box], width: int, height: int, across: int, down: int) -> Merger | None:
    """Blends views at a small size; ``None`` where tiles would be too small for that."""
    scaled = [
        (
            round(left * across / width),
            round(top * down / height),
            round(right * across / width),
            round(bottom * down / height),
        )
        for left, top, right, bottom in boxes
    ]
    if len(set(scaled)) < len(boxes):
        return None
    try:
        return Merger(scaled, across, down)
    except ValueError:
        return None


def heat_jpeg(levels: NDArray[np.uint8]) -> bytes:
    """Colors ``heat_levels``: dark is 0, light is 1."""
    buffer = io.BytesIO()
    colored = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    Image.fromarray(colored).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def truth_png(masks: Iterable[tuple[int, Mask]]) -> bytes:
    """Paints ground truth in the colors of the prompts; transparent elsewhere.

    Args:
        masks: category ids with their masks, bool (H, W), of one size; later ones lie above.

    Returns:
        A PNG, its longer side at most ``TRUTH_SIDE``; empty without masks.
    """
    canvas: NDArray[np.uint8] | None = None
    for category, mask in masks:
        width, height = fitting(mask.shape[1], mask.shape[0], TRUTH_SIDE)
        if canvas is None:
            canvas = np.zeros((height, width, 4), np.uint8)
        small = shrink(mask, width, height)
        inner = cv2.erode(small.view(np.uint8), np.ones((3, 3), np.uint8), borderValue=0).view(np.bool_)
        color = palette(category)[category - 1]
        canvas[small] = (*color.tolist(), 130)
        canvas[small & ~inner] = (*color.tolist(), 255)
    if canvas is None:
        return b""
    buffer = io.BytesIO()
    Image.fromarray(canvas).quantize(64, method=Image.Quantize.FASTOCTREE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
