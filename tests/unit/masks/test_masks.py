from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from clipseg_kfp.masks.raster import (
    LabelMap,
    Measures,
    Sums,
    decode_rle,
    mask_png,
    measure,
    overlay_jpeg,
    palette,
    shrink,
    upsample,
)

SIZES = [(352, 352), (353, 352), (640, 480), (1001, 357), (704, 1056), (2000, 353)]
MASKS = arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def probabilities(seed: int = 0, side: int = 352) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)


def preview(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "gray").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_upsample_is_torchs_bilinear(width: int, height: int) -> None:
    """Against torch in float64: in float32 torch's own coordinates are off by 1e-5 of a pixel."""
    small = probabilities()
    exact, single = (
        torch.nn.functional.interpolate(
            torch.from_numpy(small.astype(kind) / kind(255))[None, None],
            size=(height, width),
            mode="bilinear",
            align_corners=False,
        )[0, 0].numpy()
        for kind in (np.float64, np.float32)
    )
    full = upsample(small, width, height)
    assert full.dtype == np.float32
    assert full.shape == (height, width)
    np.testing.assert_allclose(full, exact, atol=1e-6, rtol=0)
    np.testing.assert_allclose(full, single, atol=5e-5, rtol=0)
    assert full.min() >= 0
    assert full.max() <= 1


@pytest.mark.parametrize(("width", "height"), [(100, 80), (1, 1), (1, 500), (352, 10), (40_000, 2)])
def test_upsample_to_any_size(width: int, height: int) -> None:
    assert upsample(np.full((352, 352), 51, np.uint8), width, height) == pytest.approx(
        np.full((height, width), 0.2)
    )


@pytest.mark.parametrize(("width", "height"), [*SIZES, (100, 80), (1, 500)])
def test_upsample_fills_what_it_is_given(width: int, height: int) -> None:
    out = np.full((height, width), 9, np.float32)
    assert np.shares_memory(upsample(probabilities(), width, height, out=out), out)
    assert (out == upsample(probabilities(), width, height)).all()


def measured(mask: NDArray[np.bool_], probability: NDArray[np.float32]) -> Measures:
    inside = probability[mask]
    score = float(inside.mean()) if inside.size else 0.0
    return measure(mask, Sums(int(mask.sum()), score, float(probability.mean()), float(probability.max())))


@settings(deadline=None, max_examples=60)
@given(MASKS)
def test_measures(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    probability = np.random.default_rng(mask.size).random(mask.shape, dtype=np.float32)
    found = measured(mask, probability)
    assert found.area == mask.sum()
    assert found.mean == pytest.approx(probability.mean(), abs=1e-6)
    assert found.maximum == probability.max()
    if mask.any():
        ys, xs = np.nonzero(mask)
        assert found.bbox == (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
        assert found.score == pytest.approx(probability[mask].mean(), abs=1e-6)
    else:
        assert (found.bbox, found.score) == ((0, 0, 0, 0), 0.0)
    encoded = {"size": [height, width], "counts": found.rle.encode()}
    assert (coco_mask.decode(encoded).astype(bool) == mask).all()
    assert (decode_rle(found.rle, width, height) == mask).all()


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks(value: bool) -> None:
    mask = np.full((30, 50), value)
    found = measured(mask, np.full((30, 50), 0.25, np.float32))
    assert found.area == 1500 * value
    assert found.bbox == ((0, 0, 50, 30) if value else (0, 0, 0, 0))
    assert found.score == 0.25 * value
    assert found.mean == found.maximum == 0.25
    assert (decode_rle(found.rle, 50, 30) == value).all()


@pytest.mark.parametrize("fill", ["random", "empty", "full"])
def test_mask_png_opens_everywhere(fill: str) -> None:
    mask = {
        "random": probabilities(side=61) > 99,
        "empty": np.zeros((7, 9), bool),
        "full": np.ones((7, 9), bool),
    }[fill]
    data = mask_png(mask)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "L")
        assert (np.asarray(image) == mask * 255).all()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint8
    assert set(np.unique(pixels)) <= {0, 255}
    assert ((pixels > 0) == mask).all()


@settings(deadline=None, max_examples=80)
@given(MASKS)
def test_mask_png_and_rle_hold_every_pixel(mask: NDArray[np.bool_]) -> None:
    with Image.open(io.BytesIO(mask_png(mask))) as image:
        assert image.mode == "L"
        assert (np.asarray(image) == mask * np.uint8(255)).all()
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    found = measured(mask, np.ones(mask.shape, np.float32))
    assert found.rle == encoded["counts"].decode()
    assert found.area == mask.sum()


def test_a_photos_mask_is_a_small_png() -> None:
    """Two megapixels with a few soft things: kilobytes."""
    coarse = np.random.default_rng(3).integers(0, 256, (6, 6), dtype=np.uint8)
    mask = upsample(coarse, 1732, 1155) > 0.5
    assert 0.1 < mask.mean() < 0.9
    assert len(mask_png(mask)) < 8_000
    assert len(mask_png(np.zeros_like(mask))) < 3_000


def test_the_label_is_the_most_probable_prompt_of_those_that_found_something() -> None:
    first = np.array([[0.9, 0.6, 0.4, 0.2]], np.float32)
    second = np.array([[0.8, 0.7, 0.4, 0.9]], np.float32)
    labels = LabelMap(4, 1, 2)
    labels.add(1, first >= 0.5, first)
    labels.add(2, second >= 0.5, second)
    assert labels.labels.tolist() == [[1, 2, 0, 2]]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([3, 300]))
def test_labels_are_those_of_a_loop_over_pixels(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 4, (count, 3, 4)).astype(np.float32) / 3  # few values, so that there are ties
    cuts = rng.integers(0, 4, count).astype(np.float32) / 3
    labels = LabelMap(4, 3, count)
    expected = np.zeros((3, 4), int)
    for i, probability in enumerate(maps):
        labels.add(i + 1, probability >= cuts[i], probability)
    for y, x in np.ndindex(3, 4):
        best = -1.0
        for i in range(count):
            if maps[i, y, x] >= cuts[i] and maps[i, y, x] > best:
                best, expected[y, x] = maps[i, y, x], i + 1
    assert (labels.labels == expected).all()


def test_labels_are_an_argmax_over_masked_probabilities() -> None:
    maps = np.random.default_rng(1).random((5, 20, 30), dtype=np.float32)
    thresholds = np.array([0.2, 0.9, 0.5, 0.99, 0.7], np.float32)[:, None, None]
    masked = np.where(maps >= thresholds, maps, 0)
    expected = np.where(masked.max(0) > 0, masked.argmax(0) + 1, 0)
    labels = LabelMap(30, 20, 5)
    for i, probability in enumerate(maps):
        labels.add(i + 1, probability >= thresholds[i], probability)
    assert (labels.labels == expected).all()
    with Image.open(io.BytesIO(labels.png())) as image:
        assert image.mode == "P"
        assert (np.asarray(image) == expected).all()
        colors = np.array(image.getpalette()).reshape(-1, 3)
        assert colors[0].tolist() == [0, 0, 0]
        assert colors[1:6].tolist() == palette(5).tolist()


@pytest.mark.parametrize(("count", "mode"), [(1, "P"), (255, "P"), (256, "I;16"), (1000, "I;16")])
@pytest.mark.parametrize("found", ["first", "last"])
def test_the_number_of_prompts_decides_the_kind_of_label_map(count: int, mode: str, found: str) -> None:
    """Not what one image happens to show: a run's label maps are all of one kind."""
    category = 1 if found == "first" else count
    labels = LabelMap(3, 2, count)
    one = np.ones((2, 3), np.float32)
    labels.add(category, np.eye(2, 3, dtype=bool), one)
    with Image.open(io.BytesIO(labels.png())) as image:
        assert (image.mode, image.size) == (mode, (3, 2))
        assert (np.asarray(image) == np.eye(2, 3) * category).all()


@pytest.mark.parametrize("count", [1, 20, 255])
def test_colors_differ(count: int) -> None:
    colors = palette(count)
    assert colors.shape == (count, 3)
    assert len({tuple(color) for color in colors.tolist()}) == count
    assert colors.max(axis=1).min() >= 150  # none looks like background
    assert (palette(count + 3)[:count] == colors).all()


def test_first_colors_are_far_apart() -> None:
    colors = palette(8).astype(int)
    distances = np.abs(colors[:, None] - colors[None]).sum(-1) + 999 * np.eye(8, dtype=int)
    assert distances.min() > 60


@pytest.mark.parametrize(("width", "height"), [(4000, 3000), (30_000, 400), (513, 512), (60, 40), (1, 40)])
def test_shrinking_keeps_what_is_thin(width: int, height: int) -> None:
    small = Image.new("RGB", (width, height))
    small.thumbnail((512, 512))
    for mask, expected in (
        (np.zeros((height, width), bool), 0),
        (np.ones((height, width), bool), small.width * small.height),
    ):
        assert shrink(mask, *small.size).sum() == expected
    line = np.zeros((height, width), bool)
    line[:, width // 3] = True
    found = shrink(line, *small.size)
    assert found.shape == (small.height, small.width)
    assert found.any(axis=0).sum() == 1
    assert found.any(axis=1).all()


@settings(deadline=None, max_examples=80)
@given(MASKS, st.data())
def test_shrinking_is_a_blockwise_or(mask: NDArray[np.bool_], data: st.DataObject) -> None:
    height, width = (data.draw(st.integers(1, side)) for side in mask.shape)
    tops, lefts = (
        np.arange(small) * large // small for small, large in zip((height, width), mask.shape, strict=True)
    )
    expected = np.array(
        [
            [block.any() for block in np.split(band, lefts[1:], axis=1)]
            for band in np.split(mask, tops[1:], axis=0)
        ]
    )
    found = shrink(mask, width, height)
    assert found.dtype == bool
    assert (found == expected).all()
    assert not np.shares_memory(found, mask)  # the mask's memory is used for the next prompt


def test_overlay_has_the_previews_size_and_its_colors() -> None:
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:60] = True
    data = overlay_jpeg(preview(80, 60), [(mask, np.array([255, 0, 0], np.uint8))])
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (80, 60))
        pixels = np.asarray(image).astype(int)
    red, green, _ = pixels[30, 40]
    assert red > green + 80
    assert abs(pixels[5, 5] - 128).max() < 6


def test_overlay_without_masks_is_the_preview() -> None:
    with Image.open(io.BytesIO(overlay_jpeg(preview(33, 21), []))) as image:
        assert image.size == (33, 21)
        assert abs(np.asarray(image).astype(int) - 128).max() < 4


def test_a_filled_hole_gets_the_label() -> None:
    """Cleaning puts pixels into masks that have no probability at all."""
    probability = np.full((6, 8), 0.9, np.float32)
    probability[2:4, 3:5] = 0
    labels = LabelMap(8, 6, 1)
    labels.add(1, np.ones((6, 8), bool), probability)
    assert (labels.labels == 1).all()
