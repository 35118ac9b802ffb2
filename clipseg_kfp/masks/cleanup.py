"""Thresholds and clean-up: masks without specks, pinholes and ragged edges.

Regions follow the usual pair of connectivities: 8 for foreground (pixels that touch at a corner belong together),
4 for background. With the same connectivity for both, a diagonal line would be connected and yet not separate the
background on its sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.errors import ParameterError
from clipseg_kfp.masks.raster import Mask
from clipseg_kfp.masks.regions import Regions, bands

#: With a larger radius OpenCV's median overflows: it counts a window's pixels in 16 bits.
MAX_RADIUS = 100


@dataclass(frozen=True)
class Instance:
    """One connected region of a mask.

    Attributes:
        bbox: x, y, width, height in pixels.
        area: pixels.
        mask: bool (height, width) of the box, without pixels of other regions.
    """

    bbox: tuple[int, int, int, int]
    area: int
    mask: Mask

    def full(self, width: int, height: int) -> Mask:
        """Returns the region alone in a mask of the whole image, bool (height, width)."""
        x, y, w, h = self.bbox
        canvas = np.zeros((height, width), bool)
        canvas[y : y + h, x : x + w] = self.mask
        return canvas


def otsu(
    probability: NDArray[np.uint8] | NDArray[np.floating] | Iterable[NDArray[np.floating]],
    *,
    minimum: float = 0.0,
) -> float:
    """Finds the threshold that best splits a probability map into two classes.

    It is Otsu's: of the 256 levels of the 8-bit map, the one with the largest variance between the classes
    (N. Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Transactions on Systems, Man,
    and Cybernetics 9(1), 1979). Every map is split, even where the image does not show what the prompt names:
    ``minimum`` keeps its noise from becoming a mask.

    Args:
        probability: any shape; uint8 for ``round(255 p)``, or floating point in 0 to 1; or the parts of a map that
            is too large to exist at once.
        minimum: the result is never lower.

    Returns:
        A threshold in 0 to 1 for ``probability >= threshold``; 0.5 for a map of a single level. It lies between two
        levels, so the 8-bit map and the map it was rounded from give the same mask.

    Raises:
        ValueError: the map is empty, or has values outside 0 to 1.
    """
    parts = [probability] if isinstance(probability, np.ndarray) else probability
    counts = np.zeros(256, np.int64)
    for part in parts:
        counts += np.bincount(_levels(part).ravel(), minlength=256)
    if not counts.any():
        raise ValueError("an empty probability map has no threshold")
    if np.count_nonzero(counts) == 1:
        return max(0.5, minimum)
    # With w and m the share and mean of the levels up to each one, and M the mean of all, the variance between
    # the classes is (M w - w m)^2 / (w (1 - w)).
    share = np.cumsum(counts) / counts.sum()
    moment = np.cumsum(counts * np.arange(256)) / counts.sum()
    inside = (share > 0) & (share < 1)
    between = np.zeros(256)
    between[inside] = (moment[-1] * share - moment)[inside] ** 2 / (share * (1 - share))[inside]
    return max((float(between.argmax()) + 0.5) / 255, minimum)


def _levels(probability: NDArray[np.uint8] | NDArray[np.floating]) -> NDArray[np.uint8]:
    if probability.size == 0:
        return np.zeros(0, np.uint8)
    if probability.dtype == np.uint8:
        return np.ascontiguousarray(probability, dtype=np.uint8)
    if not (probability.min() >= 0 and probability.max() <= 1):  # false for NaN, too
        raise ValueError("probabilities must be in 0 to 1")
    return np.rint(probability * 255).astype(np.uint8)


def clean(
    mask: Mask,
    *,
    min_area: int = 0,
    fill_holes: bool | int = False,
    smooth: int = 0,
    keep_largest: bool = False,
) -> Mask:
    """Cleans a mask: smooths it, fills holes, drops small regions, keeps the largest; in this order.

    Holes are filled before regions are measured, so a ring counts with what it encloses. Everything works on bands
    of rows: besides the mask and its copy it takes about 200 MB, whatever the mask's size.

    Args:
        mask: bool (height, width); not changed.
        min_area: regions of fewer pixels (8-connected) become background.
        fill_holes: ``True`` fills every hole: background (4-connected) that does not reach the image's border. A
            number fills holes of at most that many pixels; 1 is a number, ``True`` is not.
        smooth: radius in pixels of a median filter: the majority in a square of ``2 smooth + 1`` decides, with the
            border's pixels repeated outward. Straight edges stay where they are and areas do not drift; lines
            thinner than the radius disappear.
        keep_largest: only the largest region stays; of equals the first from the top, then from the left.

    Returns:
        A new bool (height, width) mask.

    Raises:
        ParameterError: a negative number, or a radius over ``MAX_RADIUS``.
    """
    _check(min_area=min_area, fill_holes=fill_holes, smooth=smooth)
    cleaned = _smoothed(mask, smooth) if smooth else np.array(mask, np.uint8, order="C")  # a copy, always
    left, top, width, height = cv2.boundingRect(cleaned)
    if width:  # nothing below reaches beyond the foreground's box
        box = cleaned[top : top + height, left : left + width]
        if fill_holes:
            _fill(box, None if fill_holes is True else int(fill_holes))
        if min_area > 1 or keep_largest:
            _drop(box, min_area, keep_largest)
    return cleaned.view(bool)


def components(mask: Mask, min_area: int = 0) -> Iterator[Instance]:
    """Takes a mask apart into its 8-connected regions.

    Args:
        mask: bool (height, width).
        min_area: regions of fewer pixels are left out.

    Yields:
        The regions from top to bottom by their box, then from left to right; the order depends on the mask
        alone.

    Raises:
        ParameterError: ``min_area`` is negative.
    """
    _check(min_area=min_area)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S
    )
    rows = enumerate(np.asarray(stats).tolist())
    chosen = [(label, row) for label, row in rows if label and row[cv2.CC_STAT_AREA] >= min_area]

    def first_pixel(region: tuple[int, list[int]]) -> tuple[int, int, int]:
        label, (x, y, width, *_) = region
        return y, x, int((labels[y, x : x + width] == label).argmax())

    for label, (x, y, width, height, area) in sorted(chosen, key=first_pixel):
        yield Instance((x, y, width, height), area, labels[y : y + height, x : x + width] == label)


def _check(**values: int) -> None:
    for name, value in values.items():
        if value < 0 or (name == "smooth" and value > MAX_RADIUS):
            raise ParameterError(
                f"{name} is {value}.",
                f"Give {f'0 to {MAX_RADIUS} pixels' if name == 'smooth' else '0 or more'}.",
                code="cleaning_out_of_range",
                where=name,
            )


def _smoothed(mask: Mask, radius: int) -> NDArray[np.uint8]:
    """The median of each pixel's square; a band includes as much of its neighbors as that needs."""
    height, width = mask.shape
    smoothed = np.empty((height, width), np.uint8)
    for rows in bands(height, width):
        above, below = max(0, rows.start - radius), min(height, rows.stop + radius)
        band = np.ascontiguousarray(mask[above:below]).view(np.uint8)
        smoothed[rows] = cv2.medianBlur(band, 2 * radius + 1)[rows.start - above : rows.stop - above]
    return smoothed


def _fill(pixels: NDArray[np.uint8], largest: int | None) -> None:
    """Fills holes in place; beyond the array's edge there is background."""
    height, width = pixels.shape
    regions = Regions(pixels, 0, 4)
    left, top, right, bottom = regions.boxes.T
    hole = (left > 0) & (top > 0) & (right < width) & (bottom < height)
    hole[0] = False  # the foreground
    if largest is not None:
        hole &= regions.areas <= largest
    if hole.any():
        for rows, inside in regions.chosen(hole):
            pixels[rows] |= inside.view(np.uint8)


def _drop(pixels: NDArray[np.uint8], min_area: int, keep_largest: bool) -> None:
    """Removes regions in place."""
    regions = Regions(pixels, 1, 8)
    kept = regions.areas >= min_area
    kept[0] = False
    if keep_largest and kept.any():
        best = regions.first(np.flatnonzero(kept & (regions.areas == regions.areas[kept].max())))
        kept[:] = False
        kept[best] = True
    for rows, inside in regions.chosen(kept):
        pixels[rows] = inside.view(np.uint8)
