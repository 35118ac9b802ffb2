from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from clipseg_kfp.images.decode import ImageRejectedError, to_model_input
from clipseg_kfp.masks import raster as masks
from clipseg_kfp.options import Views
from clipseg_kfp.views import (
    Box,
    Field,
    FieldLabelMap,
    Merger,
    averaged_with_flip,
    cut,
    cut_mask,
    meters_per_pixel,
    mirrored,
    plan,
    plan_views,
    sum_up,
)
from clipseg_kfp.views.tiles import tile_side

SIDE = 352
LENGTHS = st.integers(1, 700)
TILES = st.integers(32, 300)
OVERLAPS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75])


def whole_of(field: Field) -> NDArray[np.float32]:
    return np.concatenate([values for _, values in field], axis=1)


def blobs(seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """A smooth map over all levels, as a model gives them."""
    noise = np.random.default_rng(seed).normal(size=(side, side))
    smooth = cv2.GaussianBlur(noise, (0, 0), side / 20)
    return np.asarray(cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 1.5))


# --- the plan ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(LENGTHS, LENGTHS, TILES, OVERLAPS, st.booleans())
def test_a_plan_covers_the_image_with_equal_tiles(
    width: int, height: int, tile: int, overlap: float, whole: bool
) -> None:
    boxes = plan(width, height, tile=tile, overlap=overlap, whole=whole, max_tiles=10**9)
    assert boxes == plan(width, height, tile=tile, overlap=overlap, whole=whole, max_tiles=10**9)
    everything = (0, 0, width, height)
    if width <= tile and height <= tile:
        assert boxes == [everything]
        return
    assert (boxes[0] == everything) == whole
    tiles = boxes[1:] if whole else boxes
    assert len(set(tiles)) == len(tiles) > 1
    sides = (min(tile, width), min(tile, height))
    assert {(right - left, bottom - top) for left, top, right, bottom in tiles} == {sides}
    seen = np.zeros((height, width), int)
    for left, top, right, bottom in tiles:
        assert left >= 0 and top >= 0 and right <= width and bottom <= height
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    for axis, side, length in ((0, sides[0], width), (1, sides[1], height)):
        starts = sorted({box[axis] for box in tiles})
        assert all(a + side - b >= overlap * side for a, b in pairwise(starts))
        # One tile fewer could not do it.
        step = side - int(np.ceil(overlap * side))
        assert len(starts) == 1 or side + (len(starts) - 2) * step < length


@pytest.mark.parametrize("size", [(1, 1), (352, 352), (9000, 30)])
def test_without_a_tile_size_there_is_the_whole_view_only(size: tuple[int, int]) -> None:
    assert plan(*size) == [(0, 0, *size)]
    assert plan_views(Views(), *size, SIDE) == [(0, 0, *size)]


def test_an_image_narrower_than_a_tile_gets_tiles_as_narrow() -> None:
    assert plan(100, 500, tile=300, overlap=0.25, whole=False) == [(0, 0, 100, 300), (0, 200, 100, 500)]


@pytest.mark.parametrize("size", [(40_000, 40_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_tiles_are_refused_before_they_are_listed(size: tuple[int, int]) -> None:
    with pytest.raises(ImageRejectedError) as caught:
        plan(*size, tile=256)
    assert caught.value.code == "too_large"


def test_the_limit_counts_tiles() -> None:
    assert len(plan(1000, 1000, tile=500, overlap=0, max_tiles=4)) == 5
    with pytest.raises(ImageRejectedError) as caught:
        plan(1000, 1000, tile=500, overlap=0, max_tiles=3)
    assert re.findall(r"\d+", caught.value.detail) == ["1000", "1000", "4", "500", "3"]


def test_the_side_follows_from_the_ground_resolution() -> None:
    views = Views(tile_ground_resolution=0.5)
    assert tile_side(views, SIDE, 0.125) == 4 * SIDE
    assert tile_side(views, SIDE, 0.5) == SIDE
    assert tile_side(views, SIDE, 1e9) == 32
    assert tile_side(views.model_copy(update={"meters_per_pixel": 0.5}), SIDE, 0.125) == SIDE
    assert plan_views(views, 1000, 1000, SIDE, 0.25) == plan(1000, 1000, tile=704)
    assert tile_side(Views(tile_size=800), SIDE, 0.125) == 800
    with pytest.raises(ImageRejectedError) as caught:
        tile_side(views, SIDE)
    assert caught.value.code == "no_resolution"


# --- ground resolution ------------------------------------------------------------------------------------

UTM = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3076, 0, 1)


@pytest.mark.parametrize(
    ("scale", "keys", "meters"),
    [
        ((0.3, 0.3, 0.0), (*UTM, 9001), 0.3),
        ((0.2, 0.45, 0.0), (*UTM, 9001), 0.3),
        ((2.0, 2.0, 0.0), (*UTM, 9002), 0.6096),
        ((0.3, 0.3, 0.0), (*UTM, 9036), 0),  # kilometers: none of the units known
        ((0.3, 0.3, 0.0), (1, 1, 0, 1, 1024, 0, 1, 1), 0),  # no unit
        ((0.3, 0.3, 0.0), (1, 1, 0, 2, 1024, 0, 1, 2, 3076, 0, 1, 9001), 0),  # geographic: degrees
        ((0.3, 0.3, 0.0), (1, 1, 0, 9, 1024), 0),  # cut short
        ((0.0, 0.3, 0.0), (*UTM, 9001), 0),
        ((float("nan"), 0.3, 0.0), (*UTM, 9001), 0),
        ((float("inf"), 0.3, 0.0), (*UTM, 9001), 0),
        ((0.3,), (*UTM, 9001), 0),
        ((), (), 0),
    ],
)
def test_what_a_geotiff_says_of_its_resolution(
    tmp_path: Path, scale: tuple[float, ...], keys: tuple[int, ...], meters: float
) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, values in ((33550, 12, scale), (34735, 3, keys)):
        if values:
            tags.tagtype[tag] = kind
            tags[tag] = values
    photo(8, 8).save(tmp_path / "a.tif", tiffinfo=tags)
    with Image.open(tmp_path / "a.tif") as image:
        assert meters_per_pixel(image) == pytest.approx(meters)


def test_other_files_say_nothing_of_it(tmp_path: Path) -> None:
    photo(8, 8).save(tmp_path / "a.png", dpi=(300, 300))
    with Image.open(tmp_path / "a.png") as image:
        assert meters_per_pixel(image) == 0


# --- cutting and flipping ---------------------------------------------------------------------------------


def test_the_whole_view_is_the_models_input() -> None:
    image = photo(501, 333)
    assert (cut(image, (0, 0, 501, 333), SIDE) == to_model_input(image, SIDE)).all()


@pytest.mark.parametrize("box", [(0, 0, 320, 320), (160, 80, 480, 400), (320, 320, 640, 640)])
def test_a_tile_is_a_part_of_the_scaled_image(box: Box) -> None:
    scaled = np.asarray(photo(640, 640).resize((320, 320), Image.Resampling.BILINEAR))
    left, top, right, bottom = (side // 2 for side in box)
    assert (cut(photo(640, 640), box, 160) == scaled[top:bottom, left:right]).all()


@pytest.mark.parametrize("box", [(0, 0, 400, 300), (37, 21, 237, 221), (5, 5, 900, 400)])
def test_a_tile_is_its_crop_but_for_its_edges(box: Box) -> None:
    tile = cut(photo(901, 433), box, 160).astype(int)
    crop = to_model_input(photo(901, 433).crop(box), 160)
    assert (tile[4:-4, 4:-4] == crop[4:-4, 4:-4]).all()
    assert abs(tile - crop).max() < 12


def test_cutting_wants_rgb_and_a_box_inside() -> None:
    with pytest.raises(ValueError):
        cut(Image.new("L", (99, 99)), (0, 0, 50, 50), 32)
    with pytest.raises(ValueError):
        cut(photo(99, 99), (50, 50, 100, 99), 32)


def test_flips_are_undone_before_they_are_averaged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert (mirrored(pixels)[:, :, 0] == pixels[:, :, -1]).all()
    assert mirrored(pixels).flags.c_contiguous
    brightness = np.asarray(pixels[..., 0])  # a model that sees the same either way
    assert (averaged_with_flip(brightness, np.asarray(mirrored(pixels)[..., 0])) == brightness).all()


def test_averages_are_rounded_like_levels() -> None:
    first, second = (np.asarray(grid, np.uint8) for grid in np.mgrid[:256, :256])
    average = averaged_with_flip(first, second[:, ::-1])
    assert average.dtype == np.uint8
    assert (average == np.round((first.astype(float) + second) / 2)).all()


# --- merging ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimized", [True, False])
@pytest.mark.parametrize(
    ("width", "height"),
    [(2000, 1500), (2001, 1777), (352, 5000), (5000, 352), (9001, 100), (1, 1), (64, 9000)],
)
def test_strips_of_the_whole_view_are_those_of_upsample(width: int, height: int, optimized: bool) -> None:
    """Bit by bit, with Intel's primitives and without, as on other processors."""
    small, was = blobs(1), cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(optimized)
    try:
        expected = masks.upsample(small, width, height)
        merger = Merger([(0, 0, width, height)], width, height)
        for strip_values in (10_000, 333_333, 10**9):
            field = merger.field([small], strip_values)
            assert (whole_of(field) == expected).all()
            assert (whole_of(field) == expected).all()  # a second pass
    finally:
        cv2.ipp.setUseIPP(was)


def test_strips_are_small() -> None:
    widths = [values.shape[1] for _, values in Merger([(0, 0, 20_000, 1000)], 20_000, 1000).field([blobs(0)])]
    assert sum(widths) == 20_000
    assert max(widths) * 1000 < 8_000_000


@settings(deadline=None, max_examples=60)
@given(
    st.integers(40, 400), st.integers(40, 400), TILES, OVERLAPS, st.sampled_from([0, 0.3, 1]), st.booleans(),
    st.integers(0, 255), st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_constant_stays_and_bounds_hold(
    width: int, height: int, tile: int, overlap: float, weight: float, whole: bool, level: int, random: Random
) -> None:
    assume(width > tile or height > tile)
    boxes = plan(width, height, tile=tile, overlap=overlap, whole=whole, max_tiles=10**9)
    random.shuffle(boxes)
    merger = Merger(boxes, width, height, weight)
    constant = whole_of(merger.field([np.full((16, 16), level, np.uint8)] * len(boxes)))
    np.testing.assert_allclose(constant, level / 255, atol=1e-6, rtol=0)
    noise = np.random.default_rng(level).integers(0, 256, (len(boxes), 16, 16), dtype=np.uint8)
    field = merger.field(list(noise))
    values = whole_of(field)
    assert values.shape == (height, width)
    assert values.dtype == np.float32
    assert noise.min() / 255 - 1e-6 <= values.min()
    assert values.max() <= 1
    assert values.max() <= noise.max() / 255 + 1e-6


@pytest.mark.parametrize("whole", [True, False])
def test_the_width_of_strips_does_not_matter(whole: bool) -> None:
    boxes = plan(1111, 777, tile=300, whole=whole)
    maps = [blobs(i, 64) for i in range(len(boxes))]
    merger = Merger(boxes, 1111, 777)
    one, *others = (whole_of(merger.field(maps, values)) for values in (10**9, 200_000, 1))
    for other in others:
        np.testing.assert_allclose(other, one, atol=2e-7, rtol=0)


def test_the_weights_are_the_documented_ones() -> None:
    """Two tiles side by side, one sure and one sure of the contrary: what is left is the window."""
    boxes = [(0, 0, 100, 60), (60, 0, 160, 60)]
    full, empty = np.full((16, 16), 255, np.uint8), np.zeros((16, 16), np.uint8)
    row = whole_of(Merger(boxes, 160, 60).field([full, empty]))[30]
    assert (row[:60] == 1).all()
    assert (row[100:] == 0).all()
    falling = (1 + np.cos(np.pi * (np.arange(40) + 0.5) / 40)) / 2
    np.testing.assert_allclose(row[60:100], falling, atol=1e-6)
    with_whole = Merger([*boxes, (0, 0, 160, 60)], 160, 60, 0.25)
    mixed = whole_of(with_whole.field([full, empty, full]))[30]
    np.testing.assert_allclose(mixed, 0.25 + 0.75 * row, atol=1e-6)


def sampled(
    boxes: Sequence[Box], width: int, height: int, side: int, shift: float
) -> list[NDArray[np.uint8]]:
    """A smooth field as each tile's map shows it, with an error of the tile's own, as a model has."""
    rng = np.random.default_rng(3)
    maps = []
    for left, top, right, bottom in boxes:
        x = left + (np.arange(side) + 0.5) * (right - left) / side
        y = top + (np.arange(side)[:, None] + 0.5) * (bottom - top) / side
        truth = 0.5 + 0.25 * np.sin(2 * np.pi * x / width) * np.cos(2 * np.pi * y / height)
        maps.append(np.round(255 * np.clip(truth + rng.uniform(-shift, shift), 0, 1)).astype(np.uint8))
    return maps


def steepest(values: NDArray[np.float32], boxes: Sequence[Box]) -> tuple[float, float]:
    """The largest step between neighbors across the edges of tiles, and the largest elsewhere."""
    height, width = values.shape
    at, inside = 0.0, 0.0
    for axis, length, ends in ((1, width, (0, 2)), (0, height, (1, 3))):
        steps = np.abs(np.diff(values, axis=axis)).max(axis=1 - axis)
        edges = sorted({box[end] for box in boxes for end in ends} - {0, length})
        near = np.isin(np.arange(1, length), [edge + d for edge in edges for d in (-1, 0, 1)])
        at, inside = max(at, float(steps[near].max())), max(inside, float(steps[~near].max()))
    return at, inside


def test_there_are_no_seams() -> None:
    """Across the edges of tiles the map is no steeper than elsewhere; pasted tiles fail the same test."""
    width, height, side = 1000, 800, 100
    boxes = plan(width, height, tile=400, overlap=0.25, whole=False)
    maps = sampled(boxes, width, height, side, shift=0.1)
    blended = whole_of(Merger(boxes, width, height).field(maps))
    at, inside = steepest(blended, boxes)
    assert at <= inside
    # Over 100 pixels two tiles, up to 0.2 apart, meet with a slope of at most pi / 2 x 0.2 / 100.
    assert inside < 0.01

    pasted = np.zeros((height, width), np.float32)
    for (left, top, right, bottom), small in zip(boxes, maps, strict=True):
        pasted[top:bottom, left:right] = masks.upsample(small, right - left, bottom - top)
    at, inside = steepest(pasted, boxes)
    assert at > 5 * inside


def test_blended_tiles_tell_the_field_that_they_were_sampled_from() -> None:
    """No shift of half a pixel, no tile in a wrong place."""
    width, height = 1003, 777
    boxes = plan(width, height, tile=333, overlap=0.3)
    values = whole_of(Merger(boxes, width, height).field(sampled(boxes, width, height, 111, shift=0)))
    (truth,) = sampled([(0, 0, width, height)], width, height, 4000, shift=0)
    np.testing.assert_allclose(values, masks.upsample(truth, width, height), atol=0.006)


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [(0, 0, 50, 100)],  # does not cover the image
        [(0, 0, 60, 60), (40, 0, 100, 60), (0, 40, 60, 100)],  # a corner is missing
        [(0, 0, 100, 100), (0, 0, 100, 100)],
        [(0, 0, 60, 100), (0, 0, 60, 100), (40, 0, 100, 100)],
        [(0, 0, 60, 100), (40, 0, 120, 100)],
    ],
)
def test_boxes_that_are_no_views_of_the_image(boxes: list[Box]) -> None:
    with pytest.raises(ValueError):
        Merger(boxes, 100, 100)


def test_merging_wants_a_map_a_view_and_a_weight_between_0_and_1() -> None:
    with pytest.raises(ValueError):
        Merger([(0, 0, 9, 9)], 9, 9).field([blobs(0)] * 2)
    with pytest.raises(ValueError):
        Merger([(0, 0, 9, 9)], 9, 9, 1.5)


# --- accumulating -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(arrays(np.uint8, (16, 16)), st.integers(1, 300), st.integers(1, 300), st.floats(0.01, 0.99))
def test_sums_are_those_of_the_whole_map(
    small: NDArray[np.uint8], width: int, height: int, threshold: float
) -> None:
    field = Merger([(0, 0, width, height)], width, height).field([small], 5000)
    mask = cut_mask(field, threshold)
    sums = sum_up(field, mask)
    full = masks.upsample(small, width, height)
    assert (mask == (full >= np.float32(threshold))).all()
    exact = full.astype(np.float64)
    assert sums.area == mask.sum()
    assert sums.maximum == full.max()
    assert sums.mean == pytest.approx(exact.mean(), rel=1e-6)
    assert sums.score == pytest.approx(exact[mask].mean() if sums.area else 0, rel=1e-6)


def test_a_cleaned_mask_is_measured_by_itself() -> None:
    field = Merger([(0, 0, 900, 500)], 900, 500).field([blobs(2)], 50_000)
    mask = cut_mask(field, 0.5)
    mask[:, :450] = False
    full = whole_of(field).astype(np.float64)
    sums = sum_up(field, mask)
    assert sums.area == mask.sum()
    assert sums.score == pytest.approx(full[mask].mean(), rel=1e-6)
    with pytest.raises(ValueError):
        sum_up(field, mask[:-1])


@pytest.mark.parametrize("count", [3, 300])
def test_label_maps_of_fields_are_those_of_whole_maps(count: int) -> None:
    merger = Merger([(0, 0, 700, 400)], 700, 400)
    old, new = masks.LabelMap(700, 400, count), FieldLabelMap(700, 400, count)
    for i, threshold in enumerate((0.3, 0.5, 0.6)):
        field = merger.field([blobs(i)], 50_000)
        mask = cut_mask(field, threshold)
        old.add(count - i, mask, whole_of(field))
        new.add_field(count - i, mask, field)
    assert len(np.unique(old.labels)) == 4
    assert new.labels.dtype == old.labels.dtype
    # Two probabilities closer than 1 / 65535 may fall either way.
    assert np.count_nonzero(new.labels != old.labels) <= 5
    assert new.png()[:4] == b"\x89PNG"


def test_a_prompt_of_equal_probability_does_not_take_pixels_away() -> None:
    field = Merger([(0, 0, 40, 40)], 40, 40).field([np.full((8, 8), 1, np.uint8)])
    labels = FieldLabelMap(40, 40, 2)
    everywhere = np.ones((40, 40), bool)
    labels.add_field(1, everywhere, field)
    labels.add_field(2, everywhere, field)
    assert (labels.labels == 1).all()


# --- memory -----------------------------------------------------------------------------------------------

MERGE_A_LARGE_ONE = """
import numpy as np
from clipseg_kfp.views import FieldLabelMap, Merger, cut_mask, plan, sum_up

def peak():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024

width, height = 20_000, 10_000
boxes = plan(width, height, tile={tile}, overlap=0.125)
maps = np.random.default_rng(0).integers(0, 256, (len(boxes), 352, 352), dtype=np.uint8)
labels = FieldLabelMap(width, height, 2)
before = peak()
field = Merger(boxes, width, height).field(list(maps))
mask = cut_mask(field, 0.5)
sums = sum_up(field, mask)
labels.add_field(1, mask, field)
assert 0.3 < sums.area / (width * height) < 0.7, sums
assert abs(sums.mean - 0.5) < 0.01, sums
print(len(boxes), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("tile", [0, 5000])
def test_200_megapixels_are_merged_in_less_than_float32_of_them_takes(tile: int) -> None:
    """Mask, labels and best levels take four bytes a pixel; what comes on top is strips."""
    script = [sys.executable, "-c", MERGE_A_LARGE_ONE.format(tile=tile)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    views, growth = (int(value) for value in done.stdout.split())
    assert views == (16 if tile else 1)
    assert growth < (4 * 200 + 150) * 1e6


def test_a_filled_hole_gets_the_label_in_strips_too() -> None:
    small = np.full((16, 16), 230, np.uint8)
    small[6:10, 6:10] = 0
    field = Merger([(0, 0, 300, 200)], 300, 200).field([small], 200 * 64)
    assert field.strips > 1
    labels = FieldLabelMap(300, 200, 1)
    labels.add_field(1, np.ones((200, 300), bool), field)
    assert (labels.labels == 1).all()
