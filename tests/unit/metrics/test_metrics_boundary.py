"""Boundary IoU against faster-coco-eval's boundaries, and by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from faster_coco_eval.core import mask as other
from numpy.typing import NDArray

from clipseg_kfp.metrics import Confusion, Histogram, boundary_iou
from clipseg_kfp.metrics.evaluation import Evaluation


def blobs(seed: int, height: int, width: int) -> NDArray[np.bool_]:
    noise = np.random.default_rng(seed).random((height // 12, width // 12)).astype(np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) > 0.5)


def theirs(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], ratio: float) -> float:
    """The IoU of the boundaries that faster-coco-eval makes (C++, its own erosion)."""
    edges = []
    for mask in (predicted, truth):
        encoded = other.encode(np.asfortranarray(mask.astype(np.uint8)))
        boundary = other.rleToBoundary(encoded, dilation_ratio=ratio, backend="mask_api")
        edges.append(other.decode(boundary).astype(bool))
    return float((edges[0] & edges[1]).sum() / (edges[0] | edges[1]).sum())


@pytest.mark.parametrize("ratio", [0.02, 0.005, 0.1])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_against_faster_coco_eval(seed: int, ratio: float) -> None:
    predicted, truth = blobs(seed, 120, 170), blobs(seed, 120, 170)
    truth |= blobs(seed + 10, 120, 170) & (np.arange(170) < 60)
    found = boundary_iou(predicted, truth, dilation_ratio=ratio)
    assert 0 < found < 1
    assert found == pytest.approx(theirs(predicted, truth, ratio), abs=1e-12)


def test_by_hand() -> None:
    """Squares of 5 x 5 in 10 x 10 pixels, 1 pixel apart: rings of 16 pixels that share 8."""
    first, second = np.zeros((2, 10, 10), bool)
    first[1:6, 1:6] = second[1:6, 2:7] = True
    # rows 1 and 5 share columns 2 to 5; in between, columns 1 and 5 meet 2 and 6
    assert boundary_iou(first, second) == 8 / (16 + 16 - 8)
    assert boundary_iou(first, first) == 1


def test_empty_and_full() -> None:
    empty, full = np.zeros((20, 30), bool), np.ones((20, 30), bool)
    assert boundary_iou(empty, empty) is None, "no outline, nothing to say of it"
    assert boundary_iou(full, empty) == boundary_iou(empty, full) == 0
    assert boundary_iou(full, full) == 1
    inner = full.copy()
    inner[0] = False
    assert 0 < boundary_iou(inner, full) < 1, "the image's border is an outline, too"


def test_pixels_that_do_not_count() -> None:
    first, second = np.zeros((2, 40, 40), bool)
    first[5:20, 5:20] = second[5:20, 5:20] = True
    second[30:35, 30:35] = True
    valid = np.ones((40, 40), bool)
    valid[29:36, 29:36] = False
    assert boundary_iou(first, second) < 1
    assert boundary_iou(first, second, valid) == 1


def test_the_mean_is_over_images_with_an_outline() -> None:
    found = Evaluation()
    found.add("cat", Confusion(1, 1, 0, 2, 1), 0.5, Histogram())
    for name in ("cat", "unicorn"):
        found.add(name, Confusion(0, 0, 0, 4, 1), None, Histogram())
    assert found.row("cat")["images"] == 2 and found.row("cat")["boundary_iou"] == 0.5
    assert found.row("unicorn")["boundary_iou"] is None
    assert found.to_json()["boundary_iou"] == 0.5, "over the prompts that have one"
