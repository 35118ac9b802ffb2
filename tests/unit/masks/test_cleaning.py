from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from codes import fails
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mask_rows import blobs, odd_masks
from numpy.typing import NDArray
from scipy import ndimage

from clipseg_kfp.masks import regions
from clipseg_kfp.masks.cleanup import clean, components, otsu

Mask = NDArray[np.bool_]
MASKS = arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)))
EIGHT = np.ones((3, 3), bool)


def slow_clean(mask: Mask, min_area: int, fill_holes: bool | int, smooth: int, keep_largest: bool) -> Mask:
    """The same by scipy, region by region."""
    mask = ndimage.median_filter(mask, size=2 * smooth + 1, mode="nearest")
    if fill_holes is True:
        mask = ndimage.binary_fill_holes(mask)
    elif fill_holes:
        outside = ndimage.binary_fill_holes(mask)
        labels, count = ndimage.label(~mask)
        for label in range(1, count + 1):
            hole = labels == label
            if outside[hole].all() and hole.sum() <= fill_holes:
                mask = mask | hole
    labels, count = ndimage.label(mask, EIGHT)
    regions = [labels == label for label in range(1, count + 1)]
    regions = [region for region in regions if region.sum() >= min_area]
    if keep_largest and regions:
        regions = [max(regions, key=lambda region: (region.sum(), *(-v for v in place(region))))]
    return np.logical_or.reduce(regions) if regions else np.zeros_like(mask)


def place(region: Mask) -> tuple[int, int, int]:
    ys, xs = np.nonzero(region)
    return int(ys.min()), int(xs.min()), int(xs[0])


@settings(deadline=None, max_examples=200)
@given(
    MASKS,
    st.integers(0, 12),
    st.one_of(st.booleans(), st.integers(0, 9)),
    st.integers(0, 3),
    st.booleans(),
)
def test_clean_is_what_scipy_says(
    mask: Mask, min_area: int, fill_holes: bool | int, smooth: int, keep_largest: bool
) -> None:
    before = mask.copy()
    found = clean(mask, min_area=min_area, fill_holes=fill_holes, smooth=smooth, keep_largest=keep_largest)
    assert found.dtype == bool
    assert (found == slow_clean(mask, min_area, fill_holes, smooth, keep_largest)).all()
    assert (mask == before).all()
    assert not np.shares_memory(found, mask)


@settings(deadline=None, max_examples=200)
@given(
    MASKS,
    st.integers(0, 12),
    st.one_of(st.booleans(), st.integers(0, 9)),
    st.integers(0, 3),
    st.booleans(),
    st.integers(1, 90),
)
def test_bands_make_no_difference(
    mask: Mask, min_area: int, fill_holes: bool | int, smooth: int, keep_largest: bool, band: int
) -> None:
    wanted: dict[str, Any] = {"min_area": min_area, "fill_holes": fill_holes, "smooth": smooth}
    whole = clean(mask, keep_largest=keep_largest, **wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regions, "BAND_PIXELS", band)
        assert (clean(mask, keep_largest=keep_largest, **wanted) == whole).all()


@pytest.mark.parametrize("name", odd_masks())
@pytest.mark.parametrize("order", ["C", "F"])
def test_odd_masks(name: str, order: Any) -> None:
    mask = np.array(odd_masks()[name], order=order)
    everything = {"min_area": 4, "fill_holes": True, "smooth": 1, "keep_largest": True}
    assert (clean(mask) == mask).all()
    assert (clean(mask, **everything) == slow_clean(mask, **everything)).all()


def test_larger_blobs() -> None:
    mask = blobs(400, 500, 12)
    assert (clean(mask, smooth=9, fill_holes=60, min_area=80) == slow_clean(mask, 80, 60, 9, False)).all()


def test_corners_join_foreground_but_not_background() -> None:
    ring = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], bool)
    assert clean(ring, fill_holes=True).tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert (clean(ring, min_area=4) == ring).all()
    assert not clean(ring, min_area=5).any()


def test_holes_count_for_the_size_of_what_encloses_them() -> None:
    ring = np.zeros((9, 9), bool)
    ring[1:8, 1:8] = True
    ring[2:7, 2:7] = False  # 24 pixels around 25
    assert not clean(ring, min_area=30).any()
    assert clean(ring, min_area=30, fill_holes=True).sum() == 49
    assert not clean(ring, min_area=30, fill_holes=24).any()
    assert clean(ring, fill_holes=25).sum() == 49
    assert (clean(ring, fill_holes=1) == ring).all()  # a number, not True


def test_smoothing_removes_specks_and_pinholes_and_keeps_straight_edges() -> None:
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    expected = mask.copy()
    mask[10, 10] = False
    mask[30, 30] = True
    assert (clean(mask, smooth=2) == expected).all()


def test_of_equal_regions_the_first_stays() -> None:
    mask = np.zeros((6, 9), bool)
    mask[0, 6:8] = mask[0, 1:3] = mask[4, 0:2] = True
    kept = clean(mask, keep_largest=True)
    assert np.argwhere(kept).tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("bad", [{"min_area": -1}, {"fill_holes": -2}, {"smooth": -1}, {"smooth": 101}])
def test_bad_parameters_are_named(bad: dict[str, int]) -> None:
    with fails("cleaning_out_of_range", where=next(iter(bad))):
        clean(np.ones((3, 3), bool), **bad)


@settings(deadline=None, max_examples=150)
@given(MASKS, st.integers(0, 5))
def test_components_are_what_scipy_says(mask: Mask, min_area: int) -> None:
    height, width = mask.shape
    labels, count = ndimage.label(mask, EIGHT)
    expected = [labels == label for label in range(1, count + 1)]
    expected = sorted((region for region in expected if region.sum() >= min_area), key=place)
    found = list(components(mask, min_area))
    assert len(found) == len(expected)
    for part, region in zip(found, expected, strict=True):
        assert (part.full(width, height) == region).all()
        assert part.area == region.sum()
        y, x = (s.start for s in ndimage.find_objects(region.astype(int))[0])
        assert part.bbox == (x, y, part.mask.shape[1], part.mask.shape[0])


def slow_variances(levels: NDArray[np.uint8]) -> list[float]:
    """Between-class variance of each level as the last one of the lower class."""
    found = []
    for level in range(255):
        low, high = levels[levels <= level].astype(float), levels[levels > level].astype(float)
        both = low.size and high.size
        weight = low.size * high.size / levels.size**2
        found.append(weight * (low.mean() - high.mean()) ** 2 if both else 0.0)
    return found


@settings(deadline=None, max_examples=40)
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_otsu_finds_the_largest_variance_between_classes(levels: NDArray[np.uint8]) -> None:
    threshold = otsu(levels)
    if levels.min() == levels.max():
        assert threshold == 0.5
        return
    variances = slow_variances(levels)
    assert variances[int(threshold * 255)] == pytest.approx(max(variances), rel=1e-6)
    exact = levels / np.float64(255)
    assert otsu(exact) == otsu(exact.astype(np.float32)) == threshold
    assert ((exact >= threshold) == (levels > int(threshold * 255))).all()
    assert otsu(iter([exact[:1], exact[1:]])) == threshold, "in parts"


def test_otsu_parts_two_humps() -> None:
    random = np.random.default_rng(0)
    humps = np.concatenate([random.normal(0.2, 0.05, 4000), random.normal(0.7, 0.05, 1000)]).clip(0, 1)
    assert 0.35 < otsu(humps) < 0.55
    assert otsu(humps * 0.1, minimum=0.3) == 0.3  # noise where there is no object


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_otsu_of_a_flat_map(value: int, kind: Any) -> None:
    assert otsu(np.full((4, 4), value, kind)) == 0.5
    assert otsu(np.full((4, 4), value, kind), minimum=0.6) == 0.6


@pytest.mark.parametrize("values", [[], [1.2, 0.1], [-0.1, 0.5], [np.nan, 0.5]])
def test_otsu_refuses_what_is_no_probability(values: list[float]) -> None:
    with pytest.raises(ValueError):
        otsu(np.array(values))


def test_prompts_allow_what_smoothing_can_do() -> None:
    """The bound is written twice, so that prompts need no OpenCV."""
    from clipseg_kfp.masks.cleanup import MAX_RADIUS
    from clipseg_kfp.prompts.entries import MAX_SMOOTH

    assert MAX_SMOOTH == MAX_RADIUS
