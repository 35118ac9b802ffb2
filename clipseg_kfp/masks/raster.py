"""Masks at the source's resolution: pixels, run lengths, pictures."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

Mask = NDArray[np.bool_]

# Masks and labels are runs of equal pixels: filters hide them, and a search further back than the last byte takes
# time and gains little. This needs a third of the bytes and a quarter of the time of plain level 3.
# The strategy comes last, because OpenCV's compression level resets it.
_PNG_LEVEL = 3
_PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)


@dataclass(frozen=True)
class Sums:
    """Area and probabilities of a mask.

    Attributes:
        area: pixels of the mask.
        score: mean probability inside the mask; 0 for an empty mask.
        mean: mean probability over the image.
        maximum: highest probability of the image.
    """

    area: int
    score: float
    mean: float
    maximum: float


@dataclass(frozen=True)
class Measures(Sums):
    """What the table of masks tells of one mask.

    Attributes:
        bbox: x, y, width, height in pixels; zeros for an empty mask.
        rle: COCO's compressed run lengths.
    """

    bbox: tuple[int, int, int, int]
    rle: str


def upsample(
    probability: NDArray[np.uint8], width: int, height: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Resizes a probability map to an image's size, bilinearly, with half-pixel centers.

    Args:
        probability: uint8 (S, S), 255 times the probability.
        width: of the image.
        height: of the image.
        out: float32 (height, width) to fill; allocating memory for a large image takes longer than computing it.

    Returns:
        float32 (height, width), 0 to 1; ``out`` where it is given.
    """
    small = probability.astype(np.float32) / np.float32(255)
    full = cv2.resize(small, (width, height), dst=out, interpolation=cv2.INTER_LINEAR)
    return np.asarray(full, dtype=np.float32)


def measure(mask: Mask, sums: Sums) -> Measures:
    """Adds box and run lengths of a (height, width) mask to its sums (``views.sum_up``)."""
    encoded = _encode_rle(mask, sums.area)
    x, y, width, height = (int(side) for side in coco_mask.toBbox(encoded)) if sums.area else (0, 0, 0, 0)
    return Measures(**vars(sums), bbox=(x, y, width, height), rle=encoded["counts"].decode("ascii"))


def _encode_rle(mask: Mask, area: int) -> dict[str, Any]:
    """COCO's compressed run lengths, which run down the columns."""
    if not area:
        runs = {"size": list(mask.shape), "counts": [mask.size]}
        return dict(coco_mask.frPyObjects(runs, *mask.shape))
    columns = cv2.transpose(mask.view(np.uint8))  # several times as fast as np.asfortranarray
    return dict(coco_mask.encode(columns.T))


def decode_rle(rle: str, width: int, height: int) -> Mask:
    """Turns COCO's compressed run lengths into a (height, width) mask."""
    decoded = coco_mask.decode({"size": [height, width], "counts": rle.encode("ascii")})
    return np.asarray(decoded, dtype=bool)


def mask_png(mask: Mask) -> bytes:
    """An 8-bit grayscale PNG of 0 and 255, which every viewer and library opens."""
    return _png(mask.view(np.uint8) * np.uint8(255)) if mask.any() else _empty_png(*mask.shape)


@lru_cache(maxsize=64)
def _empty_png(height: int, width: int) -> bytes:
    """Kept: many masks are empty, and images have few different sizes."""
    return _png(np.zeros((height, width), np.uint8))


def palette(count: int) -> NDArray[np.uint8]:
    """Returns ``count`` well-separated colors, uint8 (count, 3).

    Hues step by the golden ratio, so the first colors are well spread for any count; value and saturation alternate.
    """
    index = np.arange(count)
    hsv = np.stack(
        [
            (index * 0.618034 * 360 + 8) % 360,  # degrees, not rounded, so that hundreds of labels differ
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
        count: number of prompts; it decides the kind of PNG, so that all images of a run have the same.
    """

    def __init__(self, width: int, height: int, count: int) -> None:
        self._best: NDArray[np.float32] | None = None
        self._wins = np.empty((height, width), bool)
        self._wide = count > 255
        self.labels = np.zeros((height, width), np.uint16 if self._wide else np.uint8)

    def add(self, category: int, mask: Mask, probability: NDArray[np.float32]) -> None:
        """Gives a prompt the pixels of its mask where it is the most probable so far."""
        if self._best is None:
            # Below any probability: cleaning adds pixels of probability 0 to masks.
            self._best = np.full(self.labels.shape, -1, np.float32)
        wins = np.greater(probability, self._best, out=self._wins)
        wins &= mask
        np.copyto(self.labels, self.labels.dtype.type(category), where=wins)
        cv2.copyTo(probability, wins.view(np.uint8), self._best)

    def png(self) -> bytes:
        """A palette PNG; with more than 255 prompts a 16-bit grayscale PNG."""
        if self._wide:
            return _png(self.labels)
        image = Image.fromarray(self.labels, mode="P")
        image.putpalette(b"\0\0\0" + palette(255).tobytes())
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=_PNG_LEVEL, compress_type=zlib.Z_RLE)
        return buffer.getvalue()


def shrink(mask: Mask, width: int, height: int) -> Mask:
    """Shrinks a mask by a blockwise "or", so that a line of one pixel stays visible at any scale.

    Args:
        mask: bool (H, W).
        width: of the result, at most W.
        height: of the result, at most H.

    Returns:
        bool (height, width).
    """
    bands = _any_of_rows(mask.view(np.uint8), height)
    cells = _any_of_rows(cv2.transpose(bands), width)
    return np.asarray(cv2.transpose(cells)).view(np.bool_)


def _any_of_rows(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Joins rows of 0 and 1 to ``count`` bands, each from row ``i * rows // count`` on."""
    starts = np.arange(count + 1) * len(values) // count
    bands = values[starts[:-1]]
    for step in range(1, int(np.diff(starts).max())):  # all bands' second rows, third rows, …
        bands |= values[np.minimum(starts[:-1] + step, starts[1:] - 1)]
    return bands


def overlay_jpeg(
    preview: bytes, layers: Sequence[tuple[Mask, NDArray[np.uint8]]], opacity: float = 0.45
) -> bytes:
    """Paints masks over a preview.

    Args:
        preview: JPEG bytes.
        layers: masks of the preview's size with their color, uint8 (3,).
        opacity: of the fill; outlines are opaque, and above all fills.

    Returns:
        JPEG bytes.
    """
    picture = Image.open(io.BytesIO(preview)).convert("RGB")
    for mask, color in layers:
        stencil = Image.fromarray(mask.view(np.uint8) * np.uint8(255 * opacity))
        picture.paste(tuple(color.tolist()), mask=stencil)
    canvas = np.array(picture)
    for mask, color in layers:
        outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, outlines, -1, color.tolist(), 2)
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    done, encoded = cv2.imencode(".png", pixels, _PNG_OPTIONS)
    if not done:  # a shape or type that no caller makes
        raise ValueError(f"cannot write a PNG of {pixels.dtype} {pixels.shape}")
    return bytes(encoded.data)
