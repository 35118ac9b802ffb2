"""Connected regions of masks of any size, found a band of rows at a time.

Labels take four bytes per pixel and their lookup eight more: for 200 megapixels, more than a pod has. So they exist
for one band at a time. Regions that cross the edge of a band are joined where they touch, and each band is labeled
a second time when its pixels are chosen; a mask of a single band keeps its labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

BAND_PIXELS = 8_000_000
_COLUMNS = [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA]

Pixels = NDArray[np.uint8]


class Regions:
    """The connected regions of all pixels with one value.

    Regions are numbered from 1; region 0 is the rest, with an area of 0.

    Args:
        pixels: uint8 (height, width), 0 and 1. A band may be changed once ``chosen`` has yielded it.
        value: of the regions' pixels, 0 or 1.
        connectivity: 4 or 8.

    Attributes:
        areas: pixels of each region.
        boxes: left, top, right and bottom of each, int32 (N, 4).
    """

    def __init__(self, pixels: Pixels, value: int, connectivity: int) -> None:
        self._pixels, self._value, self._connectivity = pixels, value, connectivity
        self._bands = bands(*pixels.shape)
        self._kept: NDArray[np.int32] | None = None
        tables: list[NDArray[np.int32]] = []
        pairs: list[NDArray[np.int32]] = []
        edge, labeled = np.zeros(pixels.shape[1], np.int32), 0
        for rows in self._bands:
            labels, table = self._label(rows)
            if len(self._bands) == 1:
                self._kept = labels
            top, bottom = (np.where(row, row + np.int32(labeled), 0) for row in (labels[0], labels[-1]))
            pairs.append(_touching(edge, top, connectivity))
            edge = bottom
            labeled += len(table)
            tables.append(table)
        #: Per band: the region of each of its labels.
        self._regions = [np.arange(labeled, dtype=np.int32)]
        table = tables[0]
        if len(tables) > 1:
            ends = np.cumsum([len(part) for part in tables])[:-1]
            numbers = _numbers(labeled, [0, *ends.tolist()], np.concatenate(pairs))
            self._regions = np.split(numbers, ends)
            table = _merged(tables, numbers)
        self.boxes, self.areas = table[:, :4], table[:, 4].astype(np.int64)

    def _label(self, rows: slice) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Labels of a band's pixels; and left, top, right, bottom and area of each label."""
        band = self._pixels[rows]
        _, labels, stats, _ = cv2.connectedComponentsWithStats(
            band if self._value else 1 - band, connectivity=self._connectivity, ltype=cv2.CV_32S
        )
        table = np.asarray(stats, np.int32)[:, _COLUMNS]
        table[:, 2:4] += table[:, :2]
        table[:, [1, 3]] += rows.start
        table[0] = (*self._pixels.shape[::-1], 0, 0, 0)  # as if there were nothing
        return np.asarray(labels, np.int32), table

    def chosen(self, choice: NDArray[np.bool_]) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
        """Yields each band's rows, and which of its pixels belong to the chosen regions.

        Args:
            choice: bool (regions,); false for region 0.
        """
        for rows, regions in zip(self._bands, self._regions, strict=True):
            labels = self._label(rows)[0] if self._kept is None else self._kept
            yield rows, choice[regions][labels]

    def first(self, candidates: NDArray[np.intp]) -> int:
        """The first of these regions: by the top of its box, then its left side, then its first pixel."""
        left, top = self.boxes[candidates, 0], self.boxes[candidates, 1]
        order = np.lexsort((left, top))
        best = [int(i) for i in candidates[(top == top[order[0]]) & (left == left[order[0]])]]
        return best[0] if len(best) == 1 else min(best, key=self._first_column)

    def _first_column(self, region: int) -> int:
        row = int(self.boxes[region, 1])
        band = next(i for i, rows in enumerate(self._bands) if row < rows.stop)
        rows = self._bands[band]
        labels = self._label(rows)[0] if self._kept is None else self._kept
        return int((self._regions[band][labels[row - rows.start]] == region).argmax())


def bands(height: int, width: int) -> list[slice]:
    """Splits a mask's rows into bands of about ``BAND_PIXELS`` pixels."""
    count = max(1, height // max(1, BAND_PIXELS // max(1, width)))
    return [slice(*pair) for pair in pairwise(i * height // count for i in range(count + 1))]


def _touching(above: NDArray[np.int32], below: NDArray[np.int32], connectivity: int) -> NDArray[np.int32]:
    """Pairs of labels of two neighboring rows that touch, int32 (N, 2)."""
    shifts = (0,) if connectivity == 4 else (-1, 0, 1)
    width = len(above)
    pairs = [
        np.stack([above[max(0, s) : width + min(0, s)], below[max(0, -s) : width - max(0, s)]], axis=1)
        for s in shifts
    ]
    joined = np.concatenate(pairs)
    return np.unique(joined[(joined > 0).all(1)], axis=0)


def _numbers(count: int, rests: list[int], pairs: NDArray[np.int32]) -> NDArray[np.int32]:
    """The region of each label, from the pairs of labels that touch; ``rests`` are the labels of region 0."""
    parents = np.arange(count, dtype=np.int32)
    parents[rests] = 0

    def root(label: int) -> int:
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = int(parents[label])
        return label

    for first, second in pairs.tolist():
        a, b = root(first), root(second)
        parents[max(a, b)] = min(a, b)
    while (parents[parents] != parents).any():
        parents = parents[parents]
    return np.unique(parents, return_inverse=True)[1].astype(np.int32)


def _merged(tables: list[NDArray[np.int32]], numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Joins the tables of the bands' labels to the table of regions."""
    table = np.concatenate(tables)
    merged = np.zeros((int(numbers.max()) + 1, 5), np.int32)
    merged[:, :2] = np.iinfo(np.int32).max
    for column in range(4):
        join = np.minimum if column < 2 else np.maximum
        join.at(merged[:, column], numbers, table[:, column])
    merged[:, 4] = np.bincount(numbers, table[:, 4])
    return merged
