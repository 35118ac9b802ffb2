from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_rows import blobs, iou, odd_masks
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from clipseg_kfp.results.formats.polygons import polygons

Mask = NDArray[np.bool_]
MASKS = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def by_pycocotools(mask: Mask, tolerance: float = 0.0) -> Mask:
    flat = [points.ravel().tolist() for points in polygons(mask, tolerance=tolerance)]
    if not flat:
        return np.zeros_like(mask)
    height, width = mask.shape
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, height, width))), bool)


def by_opencv(mask: Mask, tolerance: float = 0.0) -> Mask:
    canvas = np.zeros(mask.shape, np.uint8)
    for points in polygons(mask, tolerance=tolerance, inset=True):
        cv2.fillPoly(canvas, [points.astype(np.int32)], 1)
    return canvas.astype(bool)


def shoelace(points: NDArray[np.float64]) -> float:
    (x, y), (u, v) = points.T, np.roll(points, -1, axis=0).T
    return float((x * v - u * y).sum() / 2)


@settings(deadline=None, max_examples=250)
@given(MASKS)
def test_without_a_tolerance_polygons_are_the_mask(mask: Mask) -> None:
    assert (by_pycocotools(mask) == mask).all()
    assert (by_opencv(mask) == mask).all()


@pytest.mark.parametrize("name", odd_masks())
def test_odd_masks(name: str) -> None:
    mask = odd_masks()[name]
    for order in ("C", "F"):
        assert (by_pycocotools(np.array(mask, order=order)) == mask).all()
        assert (by_opencv(np.array(mask, order=order)) == mask).all()


@settings(deadline=None, max_examples=100)
@given(MASKS)
def test_one_polygon_a_region_with_its_area_clockwise_and_inside_the_image(mask: Mask) -> None:
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = list(polygons(mask))
    assert len(found) == count - 1
    # Cuts have no area; positive is clockwise where y points down.
    assert sorted(map(shoelace, found)) == sorted(stats[1:, cv2.CC_STAT_AREA])
    for points in found:
        assert (points >= 0).all()
        assert (points <= mask.shape[::-1]).all()
    firsts = [int(np.lexsort(points.T)[0]) for points in found]
    starts = [tuple(points[i][::-1]) for points, i in zip(found, firsts, strict=True)]
    assert starts == sorted(starts)


@settings(deadline=None, max_examples=100)
@given(MASKS, st.floats(0.1, 20))
def test_whatever_the_tolerance_a_region_stays_a_polygon(mask: Mask, tolerance: float) -> None:
    for inset in (False, True):
        found = list(polygons(mask, tolerance=tolerance, inset=inset))
        assert len(found) == len(list(polygons(mask)))
        for points in found:
            assert len(points) >= 3
            assert abs(shoelace(points)) > 0
            assert (points >= 0).all()
            assert (points <= mask.shape[::-1]).all()


@pytest.mark.parametrize("cell", [25, 60, 200])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_pixel_of_tolerance_saves_points_and_keeps_the_shape(cell: int, seed: int) -> None:
    mask = blobs(480, 640, cell, seed)
    count = [sum(map(len, polygons(mask, tolerance=tolerance))) for tolerance in (0, 1)]
    assert count[1] < count[0] / 4
    least = 0.98 if cell == 25 else 0.99
    assert iou(by_pycocotools(mask, 1), mask) >= least
    assert iou(by_opencv(mask, 1), mask) >= least


def test_thin_regions_keep_their_shape() -> None:
    mask = np.zeros((40, 200), bool)
    mask[20, 10:190] = True  # one pixel high
    mask[5:10, 20:25] = True
    assert (by_pycocotools(mask, 5) == mask).all()


def test_a_hole_is_joined_by_a_cut_of_no_width() -> None:
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    (points,) = polygons(ring)
    assert points.tolist() == [
        [0, 0], [5, 0], [5, 5], [0, 5], [0, 2], [2, 2], [2, 3], [3, 3], [3, 2], [2, 2], [0, 2],
    ]  # fmt: skip


def test_a_perforated_sheet_is_one_polygon() -> None:
    """Holes in a long row hang on each other; no recursion limit is in the way."""
    sheet = ~((np.indices((7, 6001)) % 2).all(0))
    assert len(list(polygons(sheet))) == 1
    assert (by_pycocotools(sheet) == sheet).all()


def test_far_from_the_origin() -> None:
    mask = np.zeros((50, 60_000), bool)
    mask[7:33, 59_000:59_970] = True
    mask[10:20, 59_100:59_200] = False
    assert (by_pycocotools(mask, 1) == mask).all()
    assert (by_opencv(mask) == mask).all()


def test_no_point_is_further_from_the_outline_than_the_tolerance() -> None:
    mask = blobs(200, 300, 40, 3)
    for exact, simple in zip(polygons(mask), polygons(mask, tolerance=2), strict=True):
        assert {tuple(point) for point in simple} <= {tuple(point) for point in exact}
        begin, chord = simple, np.roll(simple, -1, axis=0) - simple
        arm = exact[:, None] - begin
        along = np.clip((arm * chord).sum(2) / (chord**2).sum(1), 0, 1)
        distance = np.sqrt(((arm - along[..., None] * chord) ** 2).sum(2)).min(1)
        assert distance.max() <= 2


def test_a_spike_along_its_chord_is_not_lost() -> None:
    mask = np.zeros((130, 60), bool)
    mask[100:, :] = True
    mask[:, :3] = True  # rises along the left edge
    mask[110:120, 10:50] = False
    assert iou(by_pycocotools(mask, 1), mask) > 0.99
