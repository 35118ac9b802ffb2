"""Outlines of masks as polygons, holes included.

Formats with polygons cannot express holes. So each hole is joined to what lies left of it by a cut of no width: the
outline runs along the cut, around the hole, and back. Every rasterizer that fills by parity or by winding leaves the
hole out, and the cut has no area.

Vertices are corners of pixels: x runs from 0 at the left edge of the first pixel to the width at the right
edge of the last, as in COCO.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from clipseg_kfp.masks.raster import Mask

Points = NDArray[np.float64]
_Ints = NDArray[np.int64]

#: How far polygons of a run's files may deviate from the masks, in pixels.
TOLERANCE = 1.0
#: With ``inset``: the outline's distance in pixels from the edge, inside the border pixels.
INSET = 0.25

_NW, _NE, _SW, _SE = 1, 2, 4, 8  # the pixels around a corner
_IS_CORNER = ~np.isin(np.arange(16), (0, _NW | _NE, _SW | _SE, _NW | _SW, _NE | _SE, 15))  # not on an edge


def polygons(mask: Mask, *, tolerance: float = 0.0, inset: bool = False) -> Iterator[Points]:
    """Traces a mask: one polygon per 8-connected region, with its holes joined in.

    It takes about 6 bytes per pixel of the foreground's bounding box, and a second for a million corners.

    Args:
        mask: bool (height, width).
        tolerance: how far the outline may move, in pixels, to save points (Douglas and Peucker, 1973). With 0
            the polygon covers exactly the region's pixels. Small and thin regions keep their shape: no outline moves
            by more than a quarter of its region's width, that is, 2 area / perimeter.
        inset: draw inside the border pixels, 0.25 from their edge. Truncated to whole pixels, the points are then
            the border pixels: ``cv2.fillPoly`` fills its outline, too.

    Yields:
        float64 (N, 2) of x, y, N >= 4 (N >= 3 with a tolerance), not closed, clockwise as seen on a screen;
        regions in the order of their first pixels, from top to bottom, then from left to right.
    """
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if not width:
        return
    outline = _Outline(mask[top : top + height, left : left + width])
    outline.join_holes(0.5 if inset else 0)
    if inset:
        outline.draw_inside()
    for points, fixed in outline.rings():
        yield (_simplify(points, fixed, tolerance) if tolerance > 0 else points) + (left, top)


class _Outline:
    """All rings of a mask as one linked list of points.

    ``next[i]`` is the point after point i. Edges run so that the foreground lies at their right hand:
    clockwise around regions, counterclockwise around holes. A corner where just two diagonal pixels are
    foreground is two points, each turning around one of the background pixels.
    """

    def __init__(self, mask: Mask) -> None:
        self._pixels = np.pad(mask.astype(np.uint8), 1)
        code = self._codes()
        y, x = np.nonzero(_IS_CORNER[code])
        kind = code[y, x]
        double = np.isin(kind, (_NE | _SW, _NW | _SE))
        repeat = np.where(double, 2, 1)
        self.x, self.y = np.repeat(x, repeat), np.repeat(y, repeat)
        self._kind = np.repeat(kind, repeat)
        self._second = np.zeros(len(self.x), bool)
        self._second[np.cumsum(repeat)[double] - 1] = True
        self._double = np.repeat(double, repeat)
        self._link()
        self._offsets()
        self._find_rings()
        self._cuts = np.zeros(0, np.int64)

    def _codes(self) -> NDArray[np.uint8]:
        p = self._pixels
        code = p[:-1, :-1] * np.uint8(_NW)
        code |= p[:-1, 1:] * np.uint8(_NE)
        code |= p[1:, :-1] * np.uint8(_SW)
        code |= p[1:, 1:] * np.uint8(_SE)
        return np.asarray(code)

    def _link(self) -> None:
        """Joins the first corner of each row with the second, the third with the fourth, …; the same in columns."""
        count = len(self.x)
        left, right = np.arange(0, count, 2), np.arange(1, count, 2)
        # Of a double point's two, the first has the edge to the left; which one has the edge upward?
        later = self._second ^ (self._double & (self._kind == (_NW | _SE)))
        column = np.lexsort((later, self.y, self.x))
        self._upper, self._lower = column[0::2], column[1::2]
        self.next = np.empty(count, np.int64)
        below = self._pixels[self.y[left] + 1, self.x[left] + 1] == 1
        self.next[np.where(below, left, right)] = np.where(below, right, left)
        west = self._pixels[self.y[self._upper] + 1, self.x[self._upper]] == 1
        self.next[np.where(west, self._upper, self._lower)] = np.where(west, self._lower, self._upper)

    def _offsets(self) -> None:
        """The step into the foreground for each point; double points get a second one, for their next edge."""
        ahead = np.stack([np.sign(self.x[self.next] - self.x), np.sign(self.y[self.next] - self.y)])
        come = np.empty_like(ahead)
        come[:, self.next] = ahead
        inward_ahead, inward_come = (np.stack([-step[1], step[0]]) for step in (ahead, come))
        self._offset = np.where(self._double, inward_come - come, inward_come + inward_ahead)
        self._onward = inward_ahead + ahead

    def _find_rings(self) -> None:
        """Finds the first point of each ring by pointer doubling: each point learns the least one after it."""
        least, reach = np.arange(len(self.x)), self.next
        while True:
            lower = np.minimum(least, least[reach])
            if (lower == least).all():
                break
            least, reach = lower, reach[reach]
        starts = np.flatnonzero(least == np.arange(len(self.x)))
        inside = self._pixels[self.y[starts] + 1, self.x[starts] + 1] == 1
        self._regions, self._holes = starts[inside], starts[~inside]

    def join_holes(self, depth: float) -> None:
        """Cuts from the left edge of each hole's first pixel through foreground to the next edge on the left.

        The cut runs ``depth`` below the top of that pixel: 0, with the hole's corner as its end, or 0.5.
        A cut may end at another hole, which begins in a higher row or further left in the same: no circles.
        """
        if not len(self._holes):
            return
        height = self._pixels.shape[0]
        places = self.x[self._upper] * height + self.y[self._upper]  # of vertical edges, ascending
        x, y = self.x[self._holes], self.y[self._holes]
        runs = [int(self._pixels[v + 1, : u + 1][::-1].argmin()) for u, v in zip(x, y, strict=True)]
        hit = x - np.array(runs)
        edge = self._lower[np.searchsorted(places, hit * height + y, side="right") - 1]

        count, holes = len(self.x), len(self._holes)
        there, around, around_end, back = (count + holes * part + np.arange(holes) for part in range(4))
        self.x = np.concatenate([self.x, hit, x, x, hit])
        self.y = np.concatenate([self.y, *[y + depth] * 4])
        into = np.zeros((2, holes), np.int64)
        into[0] = 1
        self._offset = np.concatenate([self._offset, into, -into, -into, into], axis=1)
        self._cuts = np.arange(count, count + 4 * holes)
        self.next = np.concatenate([self.next, np.empty(4 * holes, np.int64)])
        # A hole's left edge runs downward from its first corner; cuts end on left edges of regions and on right
        # edges of holes, which run upward. Holes come in the order of rows, so of several cuts into one edge the
        # lowest is inserted last, right after the edge's lower end.
        down = self._holes
        self.next[there], self.next[around], self.next[around_end] = around, self.next[down], back
        self.next[down] = around_end
        for start, first, last in zip(edge, there, back, strict=True):
            self.next[last] = self.next[start]
            self.next[start] = first

    def draw_inside(self) -> None:
        """Moves all points off the edges; double points become two, one in each of the touching pixels."""
        double = np.flatnonzero(self._double)
        added = len(self.x) + np.arange(len(double))
        self.next = np.concatenate([self.next, self.next[double]])
        self.next[double] = added
        offset = np.concatenate([self._offset, self._onward[:, double]], axis=1)
        self.x = np.concatenate([self.x, self.x[double]]) + INSET * offset[0]
        self.y = np.concatenate([self.y, self.y[double]]) + INSET * offset[1]

    def rings(self) -> Iterator[tuple[Points, _Ints]]:
        """The points of each region, and which of them are ends of cuts."""
        follow: list[int] = self.next.tolist()
        points = np.stack([self.x, self.y], axis=1).astype(np.float64)
        cut = np.zeros(len(points), bool)
        cut[self._cuts] = True
        for start in self._regions.tolist():
            ring, i = [start], follow[start]
            while i != start:
                ring.append(i)
                i = follow[i]
            places, ends = points[ring], cut[ring]
            again = (places == np.roll(places, 1, axis=0)).all(1)  # a cut may end in a corner
            ends |= np.roll(ends & again, -1)
            yield places[~again], np.flatnonzero(ends[~again])


def _simplify(points: Points, fixed: _Ints, tolerance: float) -> Points:
    """Drops points; the ends of cuts stay, so that both ways along a cut stay equal."""
    start = int(fixed[0]) if len(fixed) else 0
    points = np.roll(points, -start, axis=0)
    (x, y), (ahead_x, ahead_y) = points.T, np.roll(points, -1, axis=0).T
    area = abs(float(x @ ahead_y - ahead_x @ y)) / 2  # Gauss's formula
    perimeter = float(abs(ahead_x - x).sum() + abs(ahead_y - y).sum())
    kept = np.zeros(len(points), bool)
    kept[fixed - start] = True
    kept[0] = True
    _split(points, kept, min(tolerance, area / perimeter / 2))
    return points[kept] if np.count_nonzero(kept) >= 3 else points


def _split(points: Points, kept: NDArray[np.bool_], tolerance: float) -> None:
    """Adds points to ``kept``, which has the first, until no other is further away than ``tolerance``.

    All chords are split at once, round by round, each at the point furthest from it. Distances are to the chord,
    not to its line. ``cv2.approxPolyDP`` takes the line: it loses spikes along the line, and whole rings where a
    chord begins and ends in the same point, as it does here.
    """
    closed = np.concatenate([points, points[:1]])
    stops = np.append(np.flatnonzero(kept), len(points))
    rest = np.flatnonzero(~kept)
    ahead = np.searchsorted(stops, rest)
    begin, end = stops[ahead - 1], stops[ahead]
    while len(rest):
        origin = closed[begin]
        chord, arm = closed[end] - origin, closed[rest] - origin
        length = (chord * chord).sum(1)
        along = np.clip((arm * chord).sum(1) / np.where(length > 0, length, 1), 0, 1)
        distance = ((arm - along[:, None] * chord) ** 2).sum(1)
        first = np.flatnonzero(np.append(True, begin[1:] != begin[:-1]))
        size = np.diff(first, append=len(rest))
        furthest = np.repeat(np.maximum.reduceat(distance, first), size)
        at = np.flatnonzero(distance == furthest)
        at = at[np.append(True, begin[at][1:] != begin[at][:-1])]  # of equals in a chord, the first
        cut = np.repeat(rest[at], size)
        kept[cut[furthest > tolerance**2]] = True
        open_ = (furthest > tolerance**2) & (rest != cut)
        rest, begin, end, cut = rest[open_], begin[open_], end[open_], cut[open_]
        begin, end = np.where(rest < cut, begin, cut), np.where(rest < cut, cut, end)
