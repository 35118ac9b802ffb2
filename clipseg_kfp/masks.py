"""From probabilities at model resolution to masks at the source's: pixels, run lengths, pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measures:
    """What a table says of one mask.

    Attributes:
        area: pixels.
        bbox: x, y, width, height; zeros for an empty mask.
        rle: COCO's compressed run lengths.
        score: mean probability inside the mask, 0 when empty.
        mean: mean probability over the image.
        maximum: highest probability.
    """

    area: int
    bbox: tuple[int, int, int, int]
    rle: str
    score: float
    mean: float
    maximum: float


def upsample(probability: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float32]:
    """Brings a uint8 (S, S) probability map to (height, width), bilinearly, as float32 in 0 to 1."""
    small = probability.astype(np.float32) / np.float32(255)
    full = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(full, dtype=np.float32)


def measure(mask: Mask, probability: NDArray[np.float32]) -> Measures:
    """Measures a (height, width) mask and the float32 probabilities that it was cut from."""
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    area = int(coco_mask.area(encoded))
    box = coco_mask.toBbox(encoded) if area else (0, 0, 0, 0)
    return Measures(
        area=area,
        bbox=(int(box[0]), int(box[1]), int(box[2]), int(box[3])),
        rle=encoded["counts"].decode("ascii"),
        score=float(probability[mask].mean()) if area else 0.0,
        mean=float(probability.mean()),
        maximum=float(probability.max()),
    )


def decode_rle(rle: str, width: int, height: int) -> Mask:
    """Turns COCO's compressed run lengths into a (height, width) mask."""
    decoded = coco_mask.decode({"size": [height, width], "counts": rle.encode("ascii")})
    return np.asarray(decoded, dtype=bool)


def mask_png(mask: Mask) -> bytes:
    """An 8-bit grayscale PNG, 0 and 255, which every viewer and library opens."""
    return _png(mask.astype(np.uint8) * 255)


def palette(count: int) -> NDArray[np.uint8]:
    """Returns ``count`` well-separated colors, uint8 (count, 3).

    Hues step by the golden ratio, so any prefix is spread well; value and saturation alternate.
    """
    index = np.arange(count)
    hsv = np.stack(
        [
            (index * 0.618034 * 360 + 8) % 360,  # degrees, not rounded: hundreds of labels differ
            np.where(index % 3 == 1, 0.59, 0.86),
            np.where(index % 2 == 1, 0.78, 0.96),
        ],
        axis=-1,
    ).astype(np.float32)
    rgb = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]
    return np.asarray((rgb * 255).round(), dtype=np.uint8)


class LabelMap:
    """Collects prompts one by one into a map of the most probable label of each pixel.

    Labels are category ids (1, 2, …); 0 is background, where no prompt reaches its threshold.

    Args:
        width: of the image.
        height: of the image.
        count: how many prompts there are; decides the kind of PNG, so that all images of a run have one.
    """

    def __init__(self, width: int, height: int, count: int) -> None:
        self._best = np.zeros((height, width), np.float32)
        self._wide = count > 255
        self.labels = np.zeros((height, width), np.uint16 if self._wide else np.uint8)

    def add(self, category: int, mask: Mask, probability: NDArray[np.float32]) -> None:
        """Gives a prompt the pixels of its mask where it is the most probable so far."""
        wins = mask & (probability > self._best)
        self.labels[wins] = category
        self._best[wins] = probability[wins]

    def png(self) -> bytes:
        """A palette PNG; with more than 255 prompts a 16-bit grayscale PNG."""
        if self._wide:
            return _png(self.labels)
        image = Image.fromarray(self.labels, mode="P")
        image.putpalette(b"\0\0\0" + palette(255).tobytes())
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=3)
        return buffer.getvalue()


def shrink(mask: Mask, preview: bytes) -> Mask:
    """Brings a mask to the size of a JPEG preview; a pixel counts when a part of it does."""
    size = Image.open(io.BytesIO(preview)).size
    rows, columns = (
        np.arange(small) * large // small for small, large in zip(size[::-1], mask.shape, strict=True)
    )
    # A blockwise "or" and no average: a line of one pixel stays visible however large the source is.
    bands = np.logical_or.reduceat(mask, rows, axis=0)
    return np.asarray(np.logical_or.reduceat(bands, columns, axis=1))


def overlay_jpeg(
    preview: bytes, layers: Iterable[tuple[Mask, NDArray[np.uint8]]], opacity: float = 0.45
) -> bytes:
    """Paints masks over a preview.

    Args:
        preview: JPEG bytes.
        layers: masks of the preview's size with their color, uint8 (3,).
        opacity: of the fill; outlines are opaque.

    Returns:
        JPEG bytes.
    """
    canvas = np.asarray(Image.open(io.BytesIO(preview)).convert("RGB")).copy()
    for mask, color in layers:
        tint = canvas[mask] * (1 - opacity) + color.astype(np.float32) * opacity
        canvas[mask] = tint.astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, [int(c) for c in color], 2)
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:  # only for shapes or types that no caller makes
        raise ValueError(f"no PNG of {pixels.dtype} {pixels.shape}")
    return bytes(encoded)
