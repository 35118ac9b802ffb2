"""Small pictures that the page lays over a preview: a heat map, and the ground truth."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipseg_kfp.masks import Mask, palette, shrink
from clipseg_kfp.views import Box, Merger

HEAT_SIDE, TRUTH_SIDE = 176, 320  # pixels of the longer side


def fitting(width: int, height: int, side: int) -> tuple[int, int]:
    """The size of an image whose longer side is at most ``side``."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def heat_jpeg(maps: NDArray[np.uint8], boxes: Sequence[Box], width: int, height: int) -> bytes:
    """Colors the probabilities of one prompt: dark is 0, light is 1.

    Args:
        maps: uint8 (V, S, S), 255 times the probability, one a view.
        boxes: of the views in the image.
        width: of the image.
        height: of the image.

    Returns:
        A JPEG, its longer side ``HEAT_SIDE`` at most.
    """
    across, down = fitting(width, height, HEAT_SIDE)
    total, weight = np.zeros((down, across), np.float32), np.zeros((down, across), np.float32)
    if len(boxes) == 1:
        values = next(iter(Merger([(0, 0, across, down)], across, down).field(list(maps))))[1]
    else:
        for found, (left, top, right, bottom) in zip(maps, boxes, strict=True):
            x0, y0 = left * across // width, top * down // height
            x1, y1 = max(x0 + 1, -(-right * across // width)), max(y0 + 1, -(-bottom * down // height))
            part = cv2.resize(found, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA).astype(np.float32)
            total[y0:y1, x0:x1] += part / 255
            weight[y0:y1, x0:x1] += 1
        values = np.asarray(total / np.maximum(weight, 1), np.float32)
    levels = (np.asarray(values).clip(0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    colored = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    Image.fromarray(colored).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def truth_png(masks: Iterable[tuple[int, Mask]]) -> bytes:
    """Paints ground truth in the colors of the prompts; transparent elsewhere.

    Args:
        masks: category ids with their masks, bool (H, W), of one size; later ones lie above.

    Returns:
        A PNG, its longer side ``TRUTH_SIDE`` at most; empty without masks.
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
