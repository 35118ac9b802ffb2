"""Blends the maps of an image's views into one at full resolution, a strip of columns at a time.

A full-resolution map is float32, four bytes per pixel: 800 MB for 200 megapixels. Here it exists as strips of
about 16 MB, which may be passed over more than once.

Strips are columns because bilinear resizing runs along rows first and along columns second. The first pass keeps
the model's few rows; the second treats each column by itself. So the second pass over any group of columns gives
the same bits as resizing the whole at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.masks.raster import upsample
from clipseg_kfp.views.tiles import Box

Map = NDArray[np.uint8]
Values = NDArray[np.float32]

#: How much the whole view counts where there are tiles. Below one half, a tile that is sure prevails. With
#: 0.3, large objects gain and small ones lose little: see tests/bench/tiles.py.
WHOLE_WEIGHT = 0.3
STRIP_VALUES = 4_000_000
_LEAST_COLUMNS = 64  # for very narrow images OpenCV has other code, which rounds differently


class Field:
    """A probability map at full resolution, of which one strip of columns exists at a time.

    Iterating gives pairs of the columns as a slice and their values, float32 (height, columns) in 0 to 1,
    from left to right. It may be repeated; a map of a single strip is computed once. Values must not be
    changed.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        render: makes the strip of a slice of columns.
        strip_values: about how many values a strip has.
    """

    def __init__(
        self, width: int, height: int, render: Callable[[slice], Values], strip_values: int = STRIP_VALUES
    ) -> None:
        self.width, self.height = width, height
        self._render = render
        count = max(1, width // max(_LEAST_COLUMNS, strip_values // height))
        edges = [i * width // count for i in range(count + 1)]
        self._strips = [slice(*pair) for pair in pairwise(edges)]
        self._kept: Values | None = None

    @property
    def strips(self) -> int:
        """Number of strips."""
        return len(self._strips)

    def __iter__(self) -> Iterator[tuple[slice, Values]]:
        for columns in self._strips:
            values = self._render(columns) if self._kept is None else self._kept
            if len(self._strips) == 1:
                self._kept = values
            yield columns, values


class Merger:
    """Blends the views of one image; one merger serves the maps of all prompts.

    Tiles are weighted by a window that falls off towards their neighbors as half a cosine over the overlap,

        w(u) = (1 - cos(pi u)) / 2,   u = (distance of the pixel's center from the tile's edge) / overlap,

    the tapered cosine (Tukey) window, of which Hann's is the special case of an overlap of one half. There is no
    falloff at the image's border. Weights are divided by their sum, per axis, since tiles form a grid. Sources:
    Pielawski and Waehlby, "Introducing Hann windows for reducing edge-effects in patch-based image segmentation",
    PLoS ONE 15(3), 2020, e0229839; the window: Harris, "On the use of windows for harmonic analysis with the
    discrete Fourier transform", Proceedings of the IEEE 66(1), 1978.

    The whole view joins with a constant weight: a x whole + (1 - a) x tiles. All weights of a pixel add up to
    1, so a result lies between the least and the largest value of the views.

    Args:
        boxes: of the views, in any order: the whole image, a grid of tiles, or both.
        width: of the image in pixels.
        height: of the image in pixels.
        whole_weight: a, 0 to 1; of no effect unless there are both kinds of views.

    Raises:
        ValueError: other boxes.
    """

    def __init__(
        self, boxes: Sequence[Box], width: int, height: int, whole_weight: float = WHOLE_WEIGHT
    ) -> None:
        if not 0 <= whole_weight <= 1:
            raise ValueError(f"whole_weight is {whole_weight}; it lies between 0 and 1")
        self.width, self.height = width, height
        boxes = [(left, top, right, bottom) for left, top, right, bottom in boxes]
        everything = (0, 0, width, height)
        self._whole = boxes.index(everything) if everything in boxes else None
        tiles = [box for i, box in enumerate(boxes) if i != self._whole]
        columns = sorted({(left, right) for left, _, right, _ in tiles})
        rows = sorted({(top, bottom) for _, top, _, bottom in tiles})
        grid = [(left, top, right, bottom) for left, right in columns for top, bottom in rows]
        inside = all(0 <= a < b <= width for a, b in columns) and all(0 <= a < b <= height for a, b in rows)
        if not boxes or not inside or everything in tiles or sorted(tiles) != sorted(grid):
            raise ValueError(
                f"{len(boxes)} boxes are not the views of one image of {width} x {height} pixels"
            )
        self._tiles = {box: i for i, box in enumerate(boxes) if i != self._whole}
        self._count = len(boxes)
        self._place: Values | None = None
        self._share = (whole_weight if grid else 1.0) if self._whole is not None else 0.0
        self._columns = list(zip(columns, _windows(columns, width), strict=True)) if grid else []
        self._rows = list(zip(rows, _windows(rows, height), strict=True)) if grid else []

    def field(self, maps: Sequence[Map], strip_values: int = STRIP_VALUES) -> Field:
        """Blends the maps of one prompt.

        The field is valid until the next one is made: the fields of a small image share their memory, because
        allocating it takes longer than computing its pixels.

        With the whole view alone, values equal ``raster.upsample`` bit by bit. Besides a strip, the whole view's
        first pass is held, float32 (S, width): 28 MB for 352 rows of 20,000 pixels.

        Args:
            maps: uint8 (S, S) of each view, in the order of the boxes; levels of 1 / 255.
            strip_values: about how many values of the result exist at a time.

        Raises:
            ValueError: another number of maps than of boxes.
        """
        if len(maps) != self._count:
            raise ValueError(f"{len(maps)} maps for {self._count} views")
        whole = self._render_whole(maps) if self._share else None

        def render(columns: slice) -> Values:
            if whole is not None and not self._columns:
                return whole(columns)
            size = (self.height, columns.stop - columns.start)
            values = np.zeros(size, np.float32) if whole is None else whole(columns)
            self._add_tiles(values, maps, columns)
            np.minimum(values, np.float32(1), out=values)  # weights may add up to 1 + 1e-7
            return values

        return Field(self.width, self.height, render, strip_values)

    def _render_whole(self, maps: Sequence[Map]) -> Callable[[slice], Values]:
        """Returns a function that makes strips of the whole view, times its weight."""
        small = maps[self._whole or 0]
        first: list[Values] = []  # the pass along rows, made on demand and kept for all strips

        def render(columns: slice) -> Values:
            if self._share == 1 and (columns.start, columns.stop) == (0, self.width):
                if self._place is None:
                    self._place = np.empty((self.height, self.width), np.float32)
                # Both passes at once, with the same result.
                return upsample(small, self.width, self.height, out=self._place)
            if not first:
                wide = upsample(small, self.width, min(self.height, len(small)))
                first.append(wide * np.float32(self._share) if self._share < 1 else wide)
            strip = first[0][:, columns]
            if self.height <= len(small):
                return strip.copy()
            return _resize(strip, columns.stop - columns.start, self.height)

        return render

    def _add_tiles(self, total: Values, maps: Sequence[Map], columns: slice) -> None:
        """Adds the weighted tiles to a strip."""
        for (left, right), across in self._columns:
            start, stop = max(left, columns.start), min(right, columns.stop)
            if start >= stop:
                continue
            inside = slice(start - left, stop - left)
            weights = across[inside] * np.float32(1 - self._share)
            for (top, bottom), down in self._rows:
                small = maps[self._tiles[left, top, right, bottom]]
                # Weights of columns are applied while there are only the model's few rows.
                weighted = upsample(small, right - left, len(small))[:, inside] * weights
                values = _resize(weighted, stop - start, bottom - top)
                values *= down[:, None]
                total[top:bottom, start - columns.start : stop - columns.start] += values


def _resize(values: Values, width: int, height: int) -> Values:
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _windows(intervals: list[tuple[int, int]], length: int) -> list[Values]:
    """The weight of each interval at its pixels, float32 (pixels,); over all intervals they add up to 1."""
    windows = []
    for i, (start, stop) in enumerate(intervals):
        window = np.ones(stop - start)
        if i:
            _taper(window, intervals[i - 1][1] - start)
        if i + 1 < len(intervals):
            _taper(window[::-1], stop - intervals[i + 1][0])
        windows.append(window)
    total = np.zeros(length)
    for (start, stop), window in zip(intervals, windows, strict=True):
        total[start:stop] += window
    if not total.all():
        raise ValueError("the tiles do not cover the image")
    return [
        np.asarray(window / total[start:stop], dtype=np.float32)
        for (start, stop), window in zip(intervals, windows, strict=True)
    ]


def _taper(window: NDArray[np.float64], overlap: int) -> None:
    """Lets the first values of a window rise from 0 to 1; at pixel centers, so none is 0."""
    if overlap > 0:
        window[:overlap] *= (1 - np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)) / 2
